"""A network seen from outside: its traced forward, layers and folded weights, and the probe that all measures take.

May import samples and what stands below it.
"""
