"""What the difficulty of a task depends on: the number of probe samples, the seed, and the network's tangent kernel.

    python benchmarks/probe_size.py --data DIRECTORY --out build/probe_size.json [--table TABLE]

For one run of every image task outside the locked part, the untrained network and 128, 256, 512 and 1,024 of its
training images, or as many as there are: leave-one-out accuracies of ridge on whitened patches and of ten neighbours,
with three seeds at 1,024, and of ridge on the network's tangent kernel. Then `images_v3` is fitted with them in place
of its own extrapolated ones: as they are, with the log of the train size beside them, extrapolated to it from m and
m / 2 samples, as means over seeds, with the kernel beside them. Errors in accuracy points with 95 % intervals over
tasks, then runs; differences to `images_v3` are paired. Sizes: fitted on tasks of at most 1,000 (640) training images,
asked about those of 5,000 and more (3,000 to 5,000). Every task goes to the file at once.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_gengap.zoo.evaluate.regressors import hold_out_points
from lightning_gengap.zoo.evaluate.splits import development, splits

from lightning_gengap.measurement import Measurer
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.drawing import SampleReader, draw_samples
from lightning_gengap.zoo.evaluate.bootstrap import Resampling
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.fit.specifications import IMAGES_3, Specification, Term
from lightning_gengap.zoo.table import Floats, Table, read, with_numbers
from lightning_gengap.zoo.train.grid_plans import GRIDS, grid_zoo
from lightning_gengap.zoo.train.long_plans import long_zoo, whole_zoo
from lightning_gengap.zoo.train.plans import small_zoo, wide_zoo
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.run import fresh_model, loader
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.task import prepare

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
SIZES = (128, 256, 512, 1024)
SEEDS = (0, 1, 2)
KEYS = ("input_difficulty/patch", "difficulty/neighbour_10")
KERNEL = "kernel_difficulty/ridge_accuracy"
SIZE = Term("train_samples", "log")
SPLITS = ("by task", "leave one family out", "leave one source out", "sizes")
Found = dict[str, dict[str, dict[str, float]]]  # task -> "samples/seed" -> key -> accuracy


def recipes() -> dict[str, Recipe]:
    """Every recipe of the bundled table by the key of its run."""
    plans = (small_zoo(50), wide_zoo(40), grid_zoo(len(GRIDS)), long_zoo(8), whole_zoo())
    return {recipe.key: recipe for recipe in chain(*plans)}


def first_runs(table: Table, among: Any) -> Iterator[tuple[str, Recipe]]:
    """A run of each task."""
    known, seen = recipes(), set()
    for row in np.flatnonzero(among):
        task, run = table.columns["task"][row], table.columns["run"][row]
        if task not in seen and run in known:
            seen.add(task)
            yield task, known[run]


def measured(recipe: Recipe, directory: Path | None) -> dict[str, dict[str, float]]:
    """Accuracies by number of samples and seed."""
    torch.set_num_threads(1)
    found = {}
    with silence_lightning():
        data = prepare(recipe.task, directory)
        for size, seed in [*((size, 0) for size in SIZES), *((SIZES[-1], seed) for seed in SEEDS[1:])]:
            model = fresh_model(replace(recipe, seed=recipe.seed + 100 * seed, pretrained=False), data, directory)
            samples = draw_samples(loader(data, recipe.batch_size), SampleReader(size, seed))
            assert samples is not None
            names = ["input_difficulty", "difficulty", *(["kernel_difficulty"] if size == SIZES[-1] else [])]
            measurement = Measurer.of(model, samples, initial_state=copy_state(model)).measure(model, names)
            keys = (*(f"{key}_accuracy" for key in KEYS), KERNEL)
            found[f"{size}/{seed}"] = {key: measurement.values[key] for key in keys if key in measurement.values}
    return found


def at(values: dict[str, dict[str, float]], key: str, size: int, samples: float) -> float:
    """A task's accuracy on the line through `size` probe samples and half of them, at `samples`, in [0, 1]."""
    value, half = (values[f"{count}/0"].get(f"{key}_accuracy", math.nan) for count in (size, size // 2))
    return min(max(value + (value - half) * math.log2(max(samples / size, 1)), 0), 1)


def variants(table: Table, found: Found) -> Iterator[tuple[str, Table, Specification]]:
    """Tables with other difficulties in place of the extrapolated ones, and what is fitted to them."""
    tasks, samples = table.words("task"), table.numbers("recipe.train_samples")

    def with_values(value: Any) -> Table:
        changed = table
        for key in KEYS:
            own = [value(found[t], key, n) if t in found else math.nan for t, n in zip(tasks, samples, strict=True)]
            changed = with_numbers(changed, f"measure.{key}_extrapolated", np.array(own))
        return changed

    def plain(size: int, seeds: tuple[int, ...] = (0,)) -> Table:
        columns = [f"{size}/{seed}" for seed in seeds]
        return with_values(
            lambda v, key, n: float(np.mean([v[column].get(f"{key}_accuracy", math.nan) for column in columns]))
        )

    for size in SIZES:
        yield f"of {size} samples", plain(size), IMAGES_3
    beside = replace(IMAGES_3, features=(*IMAGES_3.features, SIZE), bounds=())
    yield "of 1024 samples, log train size", plain(SIZES[-1]), beside
    yield "of 1024 samples, mean of three seeds, log train size", plain(SIZES[-1], SEEDS), beside
    for size in SIZES[1:]:
        yield f"extrapolated from {size}", with_values(lambda v, key, n, m=size: at(v, key, m, n)), IMAGES_3  # type: ignore[misc]
    yield "images_v3, log train size", table, beside
    kernel = [found[t]["1024/0"].get(KERNEL, math.nan) if t in found else math.nan for t in tasks]
    with_kernel = replace(IMAGES_3, features=(*IMAGES_3.features, Term(KERNEL, "identity")))
    yield "images_v3, tangent kernel", with_numbers(table, f"measure.{KERNEL}", np.array(kernel)), with_kernel


def scores(table: Table, found: Found) -> None:
    among = development(table) & usable(table, IMAGES_3) & usable(table, TRIVIAL_BASELINE)
    among &= np.isin(table.words("task"), list(found))
    cases = [("images_v3", table, IMAGES_3), *variants(table, found)]
    for _, changed, specification in cases:
        among &= usable(changed, specification)
    actual, resampling, split_of = table.numbers("gap.accuracy"), Resampling.of(table), splits(table)
    samples = table.numbers("recipe.train_samples")
    split_of["sizes"] = [
        ("5,000 and more", samples <= 1000, samples >= 5000),
        ("3,000 to 5,000", samples <= 640, (samples >= 3000) & (samples < 5000)),
    ]
    print(f"{among.sum()} rows of {len(set(table.words('task')[among]))} tasks")
    print("| difficulty | " + " | ".join(f"{split} | difference" for split in SPLITS) + " |")
    print("|---" * (1 + 2 * len(SPLITS)) + "|")
    own: dict[str, Any] = {}
    for name, changed, specification in cases:
        cells = []
        for split in SPLITS:
            points = hold_out_points(changed, specification, split_of[split], among)
            errors: Floats = 100 * np.abs(points.gap - actual[points.rows])
            score = resampling.mean(errors, points.rows)
            own.setdefault(split, score)
            cells += [
                shown(score.listed()),
                "" if name == "images_v3" else shown(score.minus(own[split]).listed(), "+"),
            ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def shown(score: list[float] | None, sign: str = "") -> str:
    return "-" if score is None else f"{score[0]:{sign}.1f} [{score[1]:{sign}.1f}, {score[2]:{sign}.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/probe_size.json"))
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    table = read(options.table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: Found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for task, recipe in first_runs(table, development(table) & usable(table, IMAGES_3)):
        if task not in found:
            found[task] = measured(recipe, options.data)
            options.out.write_text(json.dumps(found))
            print(f"{len(found)} tasks", end="\r", flush=True)
    scores(table, found)


if __name__ == "__main__":
    main()
