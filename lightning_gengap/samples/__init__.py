"""The training samples: how a batch is read, which indices are trained on, and the fixed draw that is measured.

May import errors and undisturbed.
"""
