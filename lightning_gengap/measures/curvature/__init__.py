"""The curvature of the loss: its soft rank, its stand-ins, and leave-one-out by it.

May import network, derivatives, linalg and other measures.
"""
