"""Norms of the weights, bounds made of them, and margins over them.

May import network, and the rooms of margins and perturbation.
"""
