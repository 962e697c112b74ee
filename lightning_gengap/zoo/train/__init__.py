"""From a recipe to measured runs: tasks, data, architectures, plans, training and measuring again.

The only room of the zoo that imports Lightning.
"""
