"""What the logits and their margins say.

May import network, derivatives, linalg, and the room of perturbation.
"""
