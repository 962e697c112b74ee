"""Where held-out predictions fail: the worst runs with the feature that misled, and the error of each kind of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_gengap.predictors.predictor import ALWAYS_NEEDED, Predictor
from lightning_gengap.zoo.evaluate.bootstrap import rounded
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting, part_of
from lightning_gengap.zoo.fit.fit import fit
from lightning_gengap.zoo.splits import Split
from lightning_gengap.zoo.table import Table

COUNT = 10
_FACTS = ("family", "source", "train_samples", "noise", "augment")
KINDS = ("family", "source", "augment", "noise", "optimizer", "pretrained")


def failures(setting: Setting, split: Sequence[Split], held: HeldOut) -> dict[str, Any]:
    """The worst runs, and, if some of them are abstentions, the worst ones among the snapshots that were answered."""
    worst = worst_runs(setting, split, held)
    if not any(one["abstained"] for one in worst):
        return {"all": worst, "answered": []}
    return {"all": worst, "answered": worst_runs(setting, split, part_of(held, ~held.abstained))}


def worst_runs(setting: Setting, split: Sequence[Split], held: HeldOut, count: int = COUNT) -> list[dict[str, Any]]:
    """The runs with the largest mean error over their held-out snapshots, the worst first.

    Accuracies, gaps and contributions are those of the last scored snapshot, by a fit without the run. `misled` is the
    feature that contributed most in the direction of that snapshot's error, or None. `outside` lists the features
    beyond the fitted range.
    """
    table = setting.table
    errors = 100 * np.abs(held.gap - table.numbers("gap.accuracy")[held.rows])
    _, run = np.unique(table.codes("run")[held.rows], return_inverse=True)
    means = np.bincount(run, errors) / np.bincount(run)
    fitted: dict[str, Predictor] = {}
    listed = []
    for place in np.argsort(-means, kind="stable")[:count]:
        own = np.flatnonzero(run == place)
        last = int(own[np.argmax(table.numbers("epoch")[held.rows[own]])])
        name, known, _ = next(part for part in split if part[2][held.rows[last]])
        if name not in fitted:
            fitted[name] = fit(table, setting.specification, known & setting.among)
        means_of_run = {"snapshots": len(own), "error": rounded(means[place])}
        row = int(held.rows[last])
        identity = {name: str(table.words(name)[row]) for name in ("run", "task")}
        facts = {fact: _fact(table, fact, row) for fact in _FACTS}
        listed.append(identity | facts | means_of_run | _last(table, fitted[name], held, last))
    return listed


def _last(table: Table, predictor: Predictor, held: HeldOut, place: int) -> dict[str, Any]:
    """What was said of one held-out snapshot, and from which features."""
    row, actual = int(held.rows[place]), table.numbers("gap.accuracy")
    needed = (*ALWAYS_NEEDED, *predictor.reads)
    prediction = predictor.predict({name: float(table.numbers(f"measure.{name}")[row]) for name in needed})
    made = prediction.contributions  # none of features while abstaining
    contributions = [(f.name, rounded(100 * made[f.name])) for f in predictor.features if f.name in made]
    misleading = [pair for pair in contributions if pair[1] * float(held.gap[place] - actual[row]) > 0]
    return {
        "epoch": rounded(table.numbers("epoch")[row]),
        "train accuracy": rounded(table.numbers("measure.train_accuracy")[row]),
        "test accuracy": rounded(table.numbers("gap.test_accuracy")[row]),
        "predicted": rounded(100 * held.gap[place]),
        "actual": rounded(100 * actual[row]),
        "abstained": bool(held.abstained[place]),
        "outside": list(prediction.outside),
        "largest": _largest(contributions),
        "misled": _largest(misleading),
    }


def _largest(contributions: list[tuple[str, float]]) -> list[Any] | None:
    return list(max(contributions, key=lambda pair: abs(pair[1]), default=())) or None


def _fact(table: Table, name: str, row: int) -> str:
    if name == "train_samples":
        return f"{table.numbers('measure.train_samples')[row]:.0f}"
    return str(table.columns[f"recipe.{name}"][row]) if f"recipe.{name}" in table.columns else "-"


def by_kind(setting: Setting, held: Mapping[str, HeldOut]) -> dict[str, Any]:
    """Error, mean signed error and skill of predictions held out by task: by family, data set and other facts."""
    table, draws, main = setting.table, setting.resampling, setting.specification.name
    rows, actual = held[main].rows, setting.table.numbers("gap.accuracy")[held[main].rows]
    signed = 100 * (held[main].gap - actual)
    trivial = 100 * np.abs(held["trivial"].gap - actual)
    listed: dict[str, Any] = {}
    for kind in KINDS:
        if f"recipe.{kind}" not in table.columns:
            continue
        values = table.words(f"recipe.{kind}")[rows]
        listed[kind] = {}
        for value in sorted(set(values.tolist())):
            of = np.flatnonzero(values == value)
            listed[kind][value] = {
                "rows": len(of),
                "runs": len(set(table.words("run")[rows[of]])),
                "tasks": len(set(table.words("task")[rows[of]])),
                "mae": draws.mean(np.abs(signed)[of], rows[of]).listed(),
                "trivial": draws.mean(trivial[of], rows[of]).listed(),
                "signed": draws.mean(signed[of], rows[of]).listed(),
                "skill": draws.skill(np.abs(signed)[of], trivial[of], rows[of]).listed(),
            }
    return listed
