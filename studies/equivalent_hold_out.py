"""How many held-out samples a prediction is worth (m*), beside two lines without a fit.

    python studies/equivalent_hold_out.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Held out are tasks, families, sources and data sets. An abstention counts with the prior mean that it gives. Tasks with
fewer than 2,000 test samples are listed apart, because their test accuracy is itself a guess. Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from contests import study_of, study_parser

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.evaluate.held_out import hold_out
from lightning_gengap.zoo.evaluate.plain_lines import anchor_line, frozen_line
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.table import Floats, Rows, Table

SPLITS = ("by task", "leave one family out", "leave one source out", "leave one data set out")
ENOUGH = 2000  # test samples
PARTS = {
    "last snapshots": (True, True),
    "last snapshots, few test samples": (True, False),
    "all snapshots": (False, True),
}


def worth(table: Table, rows: Rows, gaps: Mapping[str, Floats]) -> list[list[str]]:
    """For each part of the rows and each contender: tasks, error, bias and m*."""
    last, large = last_snapshots(table)[rows], table.numbers("gap.test_samples")[rows] >= ENOUGH
    test = table.numbers("gap.test_accuracy")[rows]
    lines = []
    for part, (only_last, only_large) in PARTS.items():
        for name, gap in gaps.items():
            chosen = (large == only_large) & (last | (not only_last)) & np.isfinite(gap)
            if not chosen.any():
                continue
            errors = (table.numbers("measure.train_accuracy")[rows] - gap - test)[chosen]
            tasks = table.codes("task")[rows][chosen]
            known = HoldOuts.of(errors, test[chosen], table.numbers("gap.test_samples")[rows][chosen], tasks)
            value, low, high = known.equivalent().listed() or [float("inf")] * 3
            counts = np.bincount(tasks)[tasks]
            bias = float((errors / counts).sum() / len(np.unique(tasks)))
            points = 100 * float(known.weights @ known.errors)
            cells = [part, name, str(len(np.unique(tasks))), str(int(chosen.sum())), f"{points:.2f}"]
            lines.append([*cells, f"{-100 * bias:+.2f}", f"{value:.0f} [{low:.0f}, {high:.0f}]"])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    options = study_parser(__doc__).parse_args(arguments)
    study = study_of(options)
    table, among = study.setting.table, study.setting.among
    specification = study.setting.specification
    header = ("rows", "contender", "tasks", "snapshots", "error (points)", "bias of the gap", "m*")
    for split in SPLITS:
        try:
            held = hold_out(table, specification, study.split_of[split], among)
        except TableError:
            print(f"\n## {split}\n\nIt leaves too little to fit on.")
            continue
        chosen = np.zeros(len(table), bool)
        chosen[held.rows] = True
        gaps = {
            specification.name: held.gap,
            "frozen line": frozen_line(table, chosen),
            "best reference alone": anchor_line(table, chosen),
        }
        print(f"\n## {split}\n\n{markdown_table(header, worth(table, held.rows, gaps))}")


if __name__ == "__main__":
    main()
