"""Held-out scores of a specification against baselines on every split, each with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.evaluate.abilities import ranking, turn
from lightning_gengap.zoo.evaluate.bootstrap import rounded
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting, hold_out_all, part_of
from lightning_gengap.zoo.evaluate.loss_scores import SCORED, loss_scores
from lightning_gengap.zoo.fit.specifications import BASELINES, TRIVIAL
from lightning_gengap.zoo.splits import Split, development, locked_parts, splits
from lightning_gengap.zoo.table import Table, check_present

Held = dict[str, HeldOut]  # by contender


def check_scores(table: Table, specification: Specification) -> None:
    """Refuse a table without the test accuracy in every row, or without what the trivial baseline is fitted to.

    Of a specification with a grid no ranking is scored, which alone needs the test accuracy.
    """
    baselines = BASELINES if specification.grid else (TRIVIAL,)
    features = [f"measure.{name}" for baseline in baselines for name in baseline.needs]
    test = () if specification.grid else ("gap.test_accuracy",)
    without = "do without scores: `gengap zoo fit --no-scores`"
    check_present(table, [*test, *features], "held-out scores beside the baselines", without)
    empty = np.flatnonzero(np.isnan(table.numbers("gap.test_accuracy")))
    if test and len(empty):
        raise TableError(
            "table",
            got=f"no gap.test_accuracy in {len(empty)} of {len(table)} rows, the first of them in line {empty[0] + 2}",
            expected="the test accuracy in every row",
            remedy="Fill in the cells, or leave out these rows.",
        )


def scores(table: Table, specification: Specification, locked: bool = True) -> dict[str, Any]:
    """Every split, specification and baselines on the same rows; ranking and turn; with `locked`, the locked parts too.

    Errors are in accuracy points. A score is [value, low, high] with a 95 % interval, over tasks and then runs. Rows
    below the train accuracy at which every predictor abstains take no part. Abstentions of the specification are
    counted.
    """
    return split_scores(Setting.of(table, specification, locked), locked)[0]


def split_scores(setting: Setting, locked: bool) -> tuple[dict[str, Any], dict[str, Held]]:
    """The report of `scores`, and the predictions behind it by split and contender."""
    table, among, main = setting.table, setting.among, setting.specification.name
    report: dict[str, Any] = {
        "rows": int(among.sum()),
        "runs": table.count("run", among),
        "tasks": table.count("task", among),
        "left_out": list(setting.left_out),
        "splits": {},
    }
    predictions, split_of = {}, splits(table)
    for name, split in split_of.items():
        held, skipped = hold_out_all(setting, split)
        if len(held[main].rows) == 0:
            report["splits"][name] = {"rows": 0, "skipped": skipped}
            continue
        predictions[name] = held
        report["splits"][name] = _compared(setting, held) | {"skipped": skipped}
        if name.startswith("leave"):
            report["splits"][name]["groups"] = _listed(setting, held, split)
        if name == "by task":
            rows, gaps = held[main].rows, {key: h.gap for key, h in held.items()}
            report["ranking"], report["turn"] = ranking(table, rows, gaps), turn(table, rows, gaps)
    report["locked"], locked_predictions = locked_scores(setting) if locked else ({}, {})
    parts: dict[str, tuple[Sequence[Split], Held]] = {
        name: (split_of[name], predictions[name]) for name in SCORED if name in predictions
    }
    for name, held in locked_predictions.items():
        parts[f"locked {name}"] = ([(name, development(table), locked_parts(table)[name])], held)
    report["loss head"] = loss_scores(setting, parts)
    return report, predictions


def locked_scores(setting: Setting) -> tuple[dict[str, Any], dict[str, Held]]:
    """Fitted on the development part, scored on each locked part; and the predictions behind the scores."""
    known, listed, predictions = development(setting.table), {}, {}
    for name, part in locked_parts(setting.table).items():
        held, skipped = hold_out_all(setting, [(name, known, part)])
        if len(held[setting.specification.name].rows):
            listed[name], predictions[name] = _compared(setting, held), held
        elif skipped:
            listed[name] = {"rows": 0, "skipped": skipped}
    return listed, predictions


def _compared(setting: Setting, held: Held) -> dict[str, Any]:
    main, draws, actual = setting.specification.name, setting.resampling, setting.table.numbers("gap.accuracy")
    own, rows = held[main], held[main].rows
    errors = {name: 100 * np.abs(h.gap - actual[h.rows]) for name, h in held.items()}
    inside = ((actual[rows] >= own.lower) & (actual[rows] <= own.upper)).astype(float)
    kept = ~own.abstained
    return {
        "rows": len(rows),
        "mae": {name: draws.mean(error, rows).listed() for name, error in errors.items()},
        "r2": {name: draws.r2(h.gap, actual[rows], rows).listed() for name, h in held.items()},
        "skill": draws.skill(errors[main], errors["trivial"], rows).listed(),
        "coverage": {
            "kept": draws.mean(inside[kept], rows[kept]).listed(),
            "all": draws.mean(inside, rows).listed(),
            "counts": [int(inside[kept].sum()), int(kept.sum())],
        },
        "abstained": rounded(own.abstained.mean()),
    }


def _listed(setting: Setting, held: Held, split: Sequence[Split]) -> dict[str, Any]:
    """Per held-out group: error of the specification and of the simplest baselines, skill, coverage, abstentions."""
    main, shown = setting.specification.name, (setting.specification.name, "trivial", "constant")
    listed = {}
    for name, _, group in split:
        chosen = group[held[main].rows]
        if chosen.any():
            compared = _compared(setting, {key: part_of(one, chosen) for key, one in held.items()})
            mae = {key: value for key, value in compared["mae"].items() if key in shown}
            listed[name] = {key: compared[key] for key in ("rows", "skill", "coverage", "abstained")} | {"mae": mae}
    return listed
