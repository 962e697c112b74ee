"""The loss and the accuracy under changes of the weights, and the noise of gradients.

May import network and derivatives, and no other room of measures.
"""
