"""Derivatives of the logits and of the loss with respect to the weights, within the memory there is.

May import network, linalg and what stands below them.
"""
