"""A network seen from outside: its traced forward, its layers and folded weights, and the probe that measures take.

May import `samples` and what stands below it.
"""
