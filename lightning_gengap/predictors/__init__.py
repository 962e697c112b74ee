"""Predictors: one formula from measured values to a gap with its interval, their files, and what observed gaps change.

May import measures. Only `files` does, to know which keys exist; everything else runs without torch.
"""
