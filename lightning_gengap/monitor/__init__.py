"""The Lightning callbacks: when to measure, what one training knows, and what is shown where.

May import everything but the zoo and the commands.
"""
