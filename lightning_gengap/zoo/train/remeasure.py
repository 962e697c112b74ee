"""Further measures of finished runs, from the weights that were kept at their snapshots.

A measure with `per_training` needs only the task and the initial weights. The recipe's seed gives both again, so that
it needs no kept weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_gengap.errors import TableError
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures import get_measure
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.zoo.files import finished, write_whole
from lightning_gengap.zoo.train.model import fresh_model, loader
from lightning_gengap.zoo.train.recipe import Recipe, recipe_of
from lightning_gengap.zoo.train.run import MONITORED
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.snapshots import Weights
from lightning_gengap.zoo.train.task import prepare


def remeasure(path: Path, measures: Sequence[str], directory: Path | None, last_only: bool = False) -> bool:
    """Add measures to the rows of a run, on the samples that were monitored in training; True if any was missing.

    Rows that have all of them are left alone. The file is replaced in one step. `directory` holds the data sets.
    """
    if not finished(path):
        raise TableError(
            f"run {path.stem}",
            got=f"no whole run in {path}",
            expected="what `gengap zoo run` writes",
            remedy="Repeat it with `gengap zoo run`.",
        )
    content = json.loads(path.read_text())
    rows = content["rows"][-1:] if last_only else content["rows"]
    missing = [row for row in rows if not set(measures) <= set(row.get("taken", []))]
    if not missing:
        return False
    torch.set_num_threads(1)
    recipe = recipe_of(content["recipe"])
    initial_alone = all(get_measure(name).per_training for name in measures)
    weights = None if initial_alone else Weights.read(path.with_suffix(".npz"))
    with silence_lightning():
        for row, values in zip(missing, _values(recipe, weights, missing, measures, directory), strict=True):
            row |= {f"measure.{key}": value for key, value in values.items() if f"measure.{key}" not in row}
            row["taken"] = sorted({*row.get("taken", []), *measures})
    write_whole(path, json.dumps(content))
    return True


def _values(
    recipe: Recipe,
    weights: Weights | None,
    rows: Sequence[dict[str, Any]],
    measures: Sequence[str],
    directory: Path | None,
) -> list[dict[str, float]]:
    """The values of the measures for each row, at its weights; at the initial ones if `weights` is None."""
    data = prepare(recipe.task, directory)
    samples = draw_samples(loader(data, recipe.batch_size), SampleReader(MONITORED))
    assert samples is not None, "a map-style data set can always be read"
    model = fresh_model(recipe, data, directory)
    initial = copy_state(model) if weights is None else weights.at(0)
    model.load_state_dict(initial)
    measurer = Measurer.of(model, samples, TrainingMemory(initial))
    found = []
    for row in rows:
        if weights is not None:
            model.load_state_dict(weights.at(int(row["epoch"])))
        found.append(measurer.measure(model, measures).values)
    return found
