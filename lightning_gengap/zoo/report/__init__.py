"""Pages and figures made from scores: templates, the code that fills them, and what matplotlib draws.

It may import `zoo.evaluate` and what that imports. jinja2 and matplotlib are imported here alone.
"""
