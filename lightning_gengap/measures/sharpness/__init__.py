"""The loss and the accuracy under changes of the weights, and the noise of gradients.

May import network, derivatives and other measures.
"""
