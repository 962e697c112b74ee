"""Norms of the weights, and bounds made of them. May import network, linalg and other measures."""
