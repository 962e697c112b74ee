"""Norms of the weights, and bounds made of them. May import network and other measures."""
