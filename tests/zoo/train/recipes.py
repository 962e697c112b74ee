"""Recipes that train in a second, and made-up files of data sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.recipe import Recipe


def small(number: int = 0) -> Recipe:
    """A run of the digits plan cut to 120 images and four epochs."""
    recipe = planned("digits", 1)[number]
    task = replace(recipe.task, train_samples=120)
    return replace(recipe, task=task, epochs=4, snapshot_every=2, width=12, depth=1)


def write_texts(directory: Path, name: str = "sst2") -> None:
    """Sixty texts to train and forty to test on, of up to six words out of nine; the class is that of one of them."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 60), ("test", 40)):
        labels = np.arange(count) % 2
        tokens = rng.integers(4, 11, (count, 6))
        tokens[:, 0] = 2 + labels
        tokens[np.arange(6) >= rng.integers(1, 7, count)[:, None]] = 0
        arrays |= {f"{split}_tokens": tokens.astype(np.uint16), f"{split}_labels": labels.astype(np.uint8)}
    np.savez(directory / f"{name}.npz", **arrays)
