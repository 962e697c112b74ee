"""Plans: which recipes a zoo is made of. They may import the rest of zoo.train, but not Lightning.

A plan with more tasks begins with the recipes of the same plan with fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lightning_gengap.zoo.train.plans.colour import colour_zoo, large_colour_zoo
from lightning_gengap.zoo.train.plans.grids import grid_zoo
from lightning_gengap.zoo.train.plans.long import long_zoo, whole_zoo
from lightning_gengap.zoo.train.plans.small import digits_zoo, small_images_zoo, small_zoo
from lightning_gengap.zoo.train.plans.tables import table_zoo
from lightning_gengap.zoo.train.plans.texts import text_zoo
from lightning_gengap.zoo.train.plans.wide import wide_zoo
from lightning_gengap.zoo.train.recipe import Recipe

PLANS: dict[str, Callable[..., Iterator[Recipe]]] = {
    "small": small_zoo,
    "wide": wide_zoo,
    "whole": whole_zoo,
    "grids": grid_zoo,
    "long": long_zoo,
    "digits": digits_zoo,
    "small_images": small_images_zoo,
    "tables": table_zoo,
    "texts": text_zoo,
    "colour": colour_zoo,
    "large_colour": large_colour_zoo,
}


def planned(name: str, tasks: int | None = None) -> list[Recipe]:
    """The recipes of a plan's first `tasks` tasks; without `tasks`, of as many as the plan has by itself."""
    return list(PLANS[name]() if tasks is None else PLANS[name](tasks))
