"""The training samples: how a batch is read, which indices are trained on, and the fixed samples that are measured.

May import `errors` and `undisturbed`.
"""
