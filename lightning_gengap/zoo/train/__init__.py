"""From a recipe to a measured run: tasks and their data, architectures, plans, training, and measuring again.

It may import the core and `zoo.files`. It is the only room of the zoo that imports Lightning.
"""
