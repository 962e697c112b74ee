"""The curvature of the loss: its soft rank, its stand-ins, and leave-one-out by it.

May import network, derivatives and linalg, and no other room of measures.
"""
