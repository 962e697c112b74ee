"""Held-out scores of a specification against baselines, under the protocol, each with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.evaluate.abilities import ranking, turn
from lightning_gengap.zoo.evaluate.bootstrap import Resampling, rounded
from lightning_gengap.zoo.evaluate.loss_scores import SCORED, loss_scores
from lightning_gengap.zoo.evaluate.regressors import Codes
from lightning_gengap.zoo.evaluate.splits import Mask, Split, development, locked_parts, splits
from lightning_gengap.zoo.fit.fit import fit, predicted, usable
from lightning_gengap.zoo.fit.specifications import JIANG, TRIVIAL, Specification, Term
from lightning_gengap.zoo.table import Floats, Table

TRIVIAL_BASELINE = Specification("trivial", (*TRIVIAL, Term("progress", "identity")))
BASELINES = (
    Specification("constant", ()),
    TRIVIAL_BASELINE,
    Specification("trivial, additive", TRIVIAL_BASELINE.features, "additive"),
    Specification("Jiang's 20 margin features", JIANG, "additive"),
)
FEWEST_SHARE = 0.5  # a baseline that would cost more rows than this is left out instead


@dataclass(frozen=True)
class HeldOut:
    """Predictions for held-out rows, in the table's order; abstentions carry the prior mean."""

    rows: NDArray[np.int64]
    gap: Floats
    lower: Floats
    upper: Floats
    abstained: Mask


@dataclass(frozen=True)
class Setting:
    """What is compared with what, on which rows.

    Attributes:
        contenders: the specification first, then the baselines.
        among: the rows that take part, the same for all contenders.
        left_out: baselines that are missing in too many rows.
    """

    table: Table
    contenders: tuple[Specification, ...]
    among: Mask
    left_out: tuple[str, ...]
    resampling: Resampling
    codes: Codes

    @staticmethod
    def of(table: Table, specification: Specification, locked: bool) -> Setting:
        """Rows with all features of all contenders, and only the development part unless `locked`.

        Raises:
            TableError: no rows have the features of the specification and of the trivial baseline.
        """
        allowed = np.ones(len(table), bool) if locked else development(table)
        among = allowed & usable(table, specification) & usable(table, TRIVIAL_BASELINE)
        if not among.any():
            raise TableError(
                "table",
                got=f"no row with all features of {specification.name} and of the trivial baseline",
                expected="measured rows of the development part",
                remedy="Train more with `gengap zoo run`.",
            )
        present = {b.name: among & usable(table, b) for b in BASELINES}
        kept = [b for b in BASELINES if present[b.name].sum() >= FEWEST_SHARE * among.sum()]
        left_out = tuple(b.name for b in BASELINES if b not in kept)
        among = np.logical_and.reduce([present[b.name] for b in kept])
        fitted_alike = (replace(baseline, balanced=specification.balanced) for baseline in kept)
        return Setting(table, (specification, *fitted_alike), among, left_out, Resampling.of(table), Codes.of(table))

    @property
    def specification(self) -> Specification:
        """The one that is evaluated."""
        return self.contenders[0]


def hold_out(table: Table, specification: Specification, split: Iterable[Split], among: Mask) -> HeldOut:
    """Fit on each split's rows and predict its held-out rows, both within `among`.

    Raises:
        TableError: a fold leaves too little to fit on.
    """
    parts = []
    for _, fitted, held in split:
        rows = np.flatnonzero(held & among)
        if len(rows) == 0:
            continue
        if not specification.features:
            gap = np.full(len(rows), table.numbers("gap.accuracy")[fitted & among].mean())
            parts.append(HeldOut(rows, gap, gap, gap, np.zeros(len(rows), bool)))
            continue
        predictor = fit(table, specification, fitted & among)
        parts.append(HeldOut(rows, *predicted(predictor, table, held & among)))
    return _joined(parts)


def hold_out_all(setting: Setting, split: Iterable[Split]) -> tuple[dict[str, HeldOut], dict[str, str]]:
    """All contenders on the same rows: a fold that one of them cannot fit is skipped by all, with the reason."""
    folds: dict[str, list[HeldOut]] = {contender.name: [] for contender in setting.contenders}
    skipped = {}
    for name, fitted, held in split:
        if not (held & setting.among).any():
            continue
        try:
            fold = [hold_out(setting.table, c, [(name, fitted, held)], setting.among) for c in setting.contenders]
        except TableError as error:
            skipped[name] = str(error)
            continue
        for contender, part in zip(setting.contenders, fold, strict=True):
            folds[contender.name].append(part)
    return {name: _joined(parts) for name, parts in folds.items()}, skipped


def scores(table: Table, specification: Specification, locked: bool = True) -> dict[str, Any]:
    """Every split, specification and baselines on the same rows; ranking and turn; with `locked`, the locked parts too.

    Errors are in accuracy points; a score is [value, low, high] with a 95 % interval, over tasks and then runs.
    Rows below the train accuracy at which every predictor abstains take no part; abstentions of the specification are
    counted.
    """
    return split_scores(Setting.of(table, specification, locked), locked)[0]


def split_scores(setting: Setting, locked: bool) -> tuple[dict[str, Any], dict[str, dict[str, HeldOut]]]:
    """The report of `scores`, and the predictions behind it by split and contender."""
    table, among, main = setting.table, setting.among, setting.specification.name
    report: dict[str, Any] = {
        "rows": int(among.sum()),
        "runs": len(set(table.words("run")[among])),
        "tasks": len(set(table.words("task")[among])),
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
    parts = {name: (split_of[name], predictions[name]) for name in SCORED if name in predictions}
    for name, held in locked_predictions.items():
        parts[f"locked {name}"] = ([(name, development(table), locked_parts(table)[name])], held)
    report["loss head"] = loss_scores(setting, parts)
    return report, predictions


def locked_scores(setting: Setting) -> tuple[dict[str, Any], dict[str, dict[str, HeldOut]]]:
    """Fitted on the development part, scored on each locked part; and the predictions behind the scores."""
    known, listed, predictions = development(setting.table), {}, {}
    for name, part in locked_parts(setting.table).items():
        held, skipped = hold_out_all(setting, [(name, known, part)])
        if len(held[setting.specification.name].rows):
            listed[name], predictions[name] = _compared(setting, held), held
        elif skipped:
            listed[name] = {"rows": 0, "skipped": skipped}
    return listed, predictions


def _compared(setting: Setting, held: dict[str, HeldOut]) -> dict[str, Any]:
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


def _listed(setting: Setting, held: dict[str, HeldOut], split: list[Split]) -> dict[str, Any]:
    """Per held-out group: error of the specification and of the simplest baselines, skill, coverage, abstentions."""
    main, shown = setting.specification.name, (setting.specification.name, "trivial", "constant")
    listed = {}
    for name, _, group in split:
        chosen = np.isin(held[main].rows, np.flatnonzero(group))
        if chosen.any():
            part = {key: part_of(h, chosen) for key, h in held.items()}
            compared = _compared(setting, part)
            mae = {key: value for key, value in compared["mae"].items() if key in shown}
            listed[name] = {key: compared[key] for key in ("rows", "skill", "coverage", "abstained")} | {"mae": mae}
    return listed


def part_of(held: HeldOut, chosen: Mask) -> HeldOut:
    """Some of the held-out rows."""
    return HeldOut(*(getattr(held, name)[chosen] for name in HeldOut.__annotations__))


def _joined(parts: Sequence[HeldOut]) -> HeldOut:
    if not parts:
        empty = np.zeros(0)
        return HeldOut(np.zeros(0, np.int64), empty, empty, empty, np.zeros(0, bool))
    whole = HeldOut(*(np.concatenate([getattr(part, name) for part in parts]) for name in HeldOut.__annotations__))
    order = np.argsort(whole.rows, kind="stable")
    return HeldOut(*(getattr(whole, name)[order] for name in HeldOut.__annotations__))
