"""How hard the samples are for closed-form classifiers, on inputs and on hidden layers.

May import network, derivatives, linalg, and the room of perturbation.
"""
