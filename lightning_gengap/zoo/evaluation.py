"""Held-out scores of a specification against baselines, under the protocol, with bootstrap intervals over tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from lightning_gengap.zoo.fit import JIANG, TRIVIAL, Specification, Term, fit, predicted, usable
from lightning_gengap.zoo.protocol import Mask, Split, development, locked_parts, splits
from lightning_gengap.zoo.table import Floats, Table

BASELINES = (
    Specification("constant", ()),
    Specification("trivial", (*TRIVIAL, Term("progress", "identity"))),
    Specification("trivial, additive", (*TRIVIAL, Term("progress", "identity")), "additive"),
    Specification("Jiang's 20 margin features", JIANG, "additive"),
)
_BOOTSTRAPS = 1000
_FEWEST_TEST_SAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """Predictions for held-out rows; abstentions carry the prior mean."""

    rows: NDArray[np.int64]
    gap: Floats
    lower: Floats
    upper: Floats
    abstained: Mask


def hold_out(table: Table, specification: Specification, split: Iterable[Split], among: Mask) -> HeldOut:
    """Fit on each split's rows and predict its held-out rows, both within `among`."""
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
    return HeldOut(*(np.concatenate([getattr(part, name) for part in parts]) for name in HeldOut.__annotations__))


def scores(table: Table, specification: Specification) -> dict[str, Any]:
    """The whole report: every split, specification and baselines on the same rows, and the locked parts.

    Errors are in accuracy points. Rows below the train accuracy at which every predictor abstains, or without a
    feature of one of the contenders, take no part; abstentions of the specification are counted.
    """
    contenders = (specification, *BASELINES)
    among = np.logical_and.reduce([usable(table, contender) for contender in contenders])
    report: dict[str, Any] = {"rows": int(among.sum()), "runs": len(set(table.words("run")[among])), "splits": {}}
    for name, split in splits(table).items():
        held = {contender.name: hold_out(table, contender, split, among) for contender in contenders}
        report["splits"][name] = _compared(table, specification.name, held)
        if name.startswith("leave"):
            report["splits"][name]["groups"] = _listed(table, specification.name, held, split)
        if name == "by task":
            report["ranking"] = ranking(table, held)
            report["turn"] = turn(table, held[specification.name])
    report["locked"] = {
        name: _compared(
            table,
            specification.name,
            {c.name: hold_out(table, c, [(name, development(table), part)], among) for c in contenders},
        )
        for name, part in locked_parts(table).items()
        if (part & among).any()
    }
    return report


def _compared(table: Table, main: str, held: dict[str, HeldOut]) -> dict[str, Any]:
    actual, tasks = table.numbers("gap.accuracy"), table.words("task")
    errors = {name: np.abs(h.gap - actual[h.rows]) for name, h in held.items()}
    own, trivial = held[main], held["trivial"]
    inside = (actual[own.rows] >= own.lower) & (actual[own.rows] <= own.upper)
    kept = ~own.abstained
    groups = tasks[own.rows]
    return {
        "rows": len(own.rows),
        "mae": {name: bootstrap(100 * error, tasks[held[name].rows]) for name, error in errors.items()},
        "r2": {name: _rounded(_r2(h.gap, actual[h.rows])) for name, h in held.items()},
        "skill": _skill(errors[main], errors["trivial"], tasks[trivial.rows]),
        "coverage": {"kept": bootstrap(inside[kept].astype(float), groups[kept]), "all": _rounded(inside.mean())},
        "abstained": _rounded(own.abstained.mean()),
    }


def _listed(table: Table, main: str, held: dict[str, HeldOut], split: list[Split]) -> dict[str, Any]:
    """Per held-out group: error of the specification and of the trivial baseline, coverage, rows."""
    actual = table.numbers("gap.accuracy")
    listed = {}
    for name, _, group in split:
        chosen = {key: np.isin(h.rows, np.flatnonzero(group)) for key, h in held.items()}
        if not chosen[main].any():
            continue
        mae = {
            key: _rounded(100 * np.abs(h.gap - actual[h.rows])[chosen[key]].mean())
            for key, h in held.items()
            if key in (main, "trivial", "constant")
        }
        own, mask = held[main], chosen[main] & ~held[main].abstained
        inside = (actual[own.rows] >= own.lower) & (actual[own.rows] <= own.upper)
        listed[name] = {
            "rows": int(chosen[main].sum()),
            "mae": mae,
            "coverage": _rounded(inside[mask].mean()) if mask.any() else None,
            "abstained": _rounded(own.abstained[chosen[main]].mean()),
        }
    return listed


def ranking(table: Table, held: dict[str, HeldOut]) -> dict[str, Any]:
    """Kendall's tau of predicted and actual test accuracy within held-out tasks, over all their snapshots.

    Tasks with at least 1,000 test samples, eight runs and eight scored snapshots; `train accuracy` ranks by that alone.
    """
    train, test = table.numbers("measure.train_accuracy"), table.numbers("gap.test_accuracy")
    tasks, runs = table.words("task"), table.words("run")
    ranked = {name: (h.rows, train[h.rows] - h.gap) for name, h in held.items() if name != "constant"}
    any_rows = next(iter(held.values())).rows
    ranked["train accuracy"] = (any_rows, train[any_rows])
    serving = [
        task
        for task in sorted(set(tasks[any_rows]))
        if table.numbers("gap.test_samples")[tasks == task].max() >= _FEWEST_TEST_SAMPLES
        and len(set(runs[tasks == task])) >= 8
        and (tasks[any_rows] == task).sum() >= 8
    ]
    taus = {
        name: np.array([kendalltau(score[tasks[rows] == t], test[rows[tasks[rows] == t]]).statistic for t in serving])
        for name, (rows, score) in ranked.items()
    }
    return {"tasks": len(serving)} | {
        name: bootstrap(np.nan_to_num(values), np.array(serving)) for name, values in taus.items()
    }


def turn(table: Table, held: HeldOut) -> dict[str, Any]:
    """Regret, in test points, of the snapshot with the highest predicted test accuracy, and of the last one."""
    train, test = table.numbers("measure.train_accuracy")[held.rows], table.numbers("gap.test_accuracy")[held.rows]
    runs, tasks = table.words("run")[held.rows], table.words("task")[held.rows]
    epochs = table.numbers("epoch")[held.rows]
    regrets, last_regrets, groups = [], [], []
    for run in sorted(set(runs)):
        of = np.flatnonzero(runs == run)
        if len(of) < 4:
            continue
        of = of[np.argsort(epochs[of])]
        best = test[of].max()
        chosen = of[int(np.argmax(train[of] - held.gap[of]))]
        regrets.append(100 * (best - test[chosen]))
        last_regrets.append(100 * (best - test[of[-1]]))
        groups.append(tasks[of[0]])
    return {
        "runs": len(regrets),
        "chosen": bootstrap(np.array(regrets), np.array(groups)),
        "last": bootstrap(np.array(last_regrets), np.array(groups)),
    }


def bootstrap(values: Floats, groups: NDArray[Any]) -> list[float]:
    """Mean and its 95 % interval by resampling whole groups: [mean, low, high]."""
    if len(values) == 0:
        return [float("nan")] * 3
    sums, counts = _by_group(values, groups)
    drawn = np.random.default_rng(0).integers(0, len(sums), (_BOOTSTRAPS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [_rounded(values.mean()), *map(_rounded, np.quantile(means, [0.025, 0.975]))]


def _skill(errors: Floats, trivial: Floats, groups: NDArray[Any]) -> list[float]:
    """1 - error / trivial error, with its 95 % interval by resampling whole tasks."""
    own, counts = _by_group(errors, groups)
    other, _ = _by_group(trivial, groups)
    drawn = np.random.default_rng(0).integers(0, len(counts), (_BOOTSTRAPS, len(counts)))
    skills = 1 - own[drawn].sum(axis=1) / other[drawn].sum(axis=1)
    return [_rounded(1 - errors.mean() / trivial.mean()), *map(_rounded, np.quantile(skills, [0.025, 0.975]))]


def _by_group(values: Floats, groups: NDArray[Any]) -> tuple[Floats, Floats]:
    _, inverse = np.unique(groups, return_inverse=True)
    return np.bincount(inverse, values).astype(float), np.bincount(inverse).astype(float)


def _r2(prediction: Floats, actual: Floats) -> float:
    return float(1 - ((actual - prediction) ** 2).sum() / ((actual - actual.mean()) ** 2).sum())


def _rounded(value: Any) -> float:
    return round(float(value), 4)
