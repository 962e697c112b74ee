"""Predictors: one formula from measured values to a gap, their files, and one posterior for all evidence.

May import measures. Only `files` does, to know which keys exist; everything else runs without torch.
"""
