"""What `images_v5` is worth on 32 x 32 colour images and small ones, beside the predictors before and two plain lines.

    python studies/images.py [pretrained_predictors/image_zoo_v2.csv.gz]

`images_v5` and `images_v4` are fitted anew without the task, the family or the data set of a row; a task takes along
those that share over half of its classes. `images_v3` is taken as it is bundled, on the runs that have its features:
it was fitted on other runs of the same data sets, and the small tasks are among those. The frozen line and the best
reference alone have no fit. Errors are of the test accuracy in points; tasks count alike; sealed runs are left out.
Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from evidence import by_task, ranged_m

from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.evaluate.plain_lines import anchor_line, frozen_line
from lightning_gengap.zoo.fit.fit import predict_rows, usable
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.fit.specifications import IMAGES_4, IMAGES_5
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import by_group
from lightning_gengap.zoo.splits import by_task as tasks_of
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table, read

TABLE = Path(__file__).parents[1] / "pretrained_predictors" / "image_zoo_v2.csv.gz"
HEADER = ("rows", "contender", "tasks", "runs", "error (points)", "bias of the gap", "m*")


def contenders(table: Table) -> Iterator[tuple[str, Rows, Floats]]:
    """For each contender its name, its rows, and how much its gap is too large there."""
    among = usable(table, IMAGES_5)
    splits = {
        "task": tasks_of(table),
        "family": list(by_group(table, "recipe.family")),
        "data set": list(by_group(table, "recipe.source")),
    }
    for specification in (IMAGES_5, IMAGES_4):
        for name, split in splits.items():
            found = held_out_residuals(table, specification, split, among)
            yield f"`{specification.name}`, {name} left out", found.rows, found.residual
    rows, actual = np.flatnonzero(among), table.numbers("measure.train_accuracy") - table.numbers("gap.test_accuracy")
    before = predict_rows(load_predictor("images_v3"), table, among)
    known = np.where(before.abstained, np.nan, before.gap)
    lines = {"`images_v3`, as bundled": known, "frozen line": frozen_line(table, among)}
    for name, gap in (lines | {"best reference alone": anchor_line(table, among)}).items():
        yield name, rows, gap - actual[among]


def parts(table: Table) -> dict[str, Mask]:
    """The rows that are listed apart."""
    colour, last, source = table.words("recipe.plan") == "colour", last_snapshots(table), table.words("recipe.source")
    return {
        "32 x 32, last snapshots": colour & last,
        "... CIFAR-10": colour & last & (source == "cifar10"),
        "... CIFAR-100": colour & last & (source == "cifar100"),
        "32 x 32, all snapshots": colour,
        "small, last snapshots": ~colour & last,
    }


def page(table: Table) -> list[list[str]]:
    """A line for each part and contender."""
    found, test = list(contenders(table)), table.numbers("gap.test_accuracy")
    samples, tasks, runs = table.numbers("gap.test_samples"), table.codes("task"), table.codes("run")
    listed = []
    for part, among in parts(table).items():
        for name, rows, errors in found:
            own = among[rows] & np.isfinite(errors)
            if not own.any():
                continue
            places, codes = rows[own], np.unique(tasks[rows[own]], return_inverse=True)[1]
            known = HoldOuts.of(errors[own], test[places], samples[places], codes)
            counts = [str(len(np.unique(each[places]))) for each in (tasks, runs)]
            points = [f"{100 * float(known.weights @ known.errors):.2f}", f"{100 * by_task(errors[own], codes):+.2f}"]
            listed.append([part, name, *counts, *points, ranged_m(known.equivalent())])
    return listed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    print(markdown_table(HEADER, page(read(parser.parse_args(arguments).table))))


if __name__ == "__main__":
    main()
