"""Recipes that train in a second."""

from dataclasses import replace

from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.recipe import Recipe


def small(number: int = 0) -> Recipe:
    """A run of the digits plan cut to 120 images and four epochs."""
    recipe = planned("digits", 1)[number]
    task = replace(recipe.task, train_samples=120)
    return replace(recipe, task=task, epochs=4, snapshot_every=2, width=12, depth=1)
