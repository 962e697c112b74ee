"""Where held-out predictions fail: the worst runs with the feature that misled, and the error of each kind of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_gengap.predictors.predictor import ALWAYS_NEEDED, Prediction, Predictor
from lightning_gengap.zoo.evaluate.bootstrap import rounded
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting, part_of
from lightning_gengap.zoo.fit.fit import fit
from lightning_gengap.zoo.splits import Split
from lightning_gengap.zoo.table import Table

COUNT = 10
_FACTS = ("family", "source", "train_samples", "noise", "augment")
KINDS = ("family", "source", "augment", "noise", "optimizer", "pretrained")
Contribution = tuple[str, float]


def failures(setting: Setting, split: Sequence[Split], held: HeldOut) -> dict[str, Any]:
    """The worst runs; where some of them are abstentions, the worst among the snapshots that were answered too."""
    worst = worst_runs(setting, split, held)
    if not any(one["abstained"] for one in worst):
        return {"all": worst, "answered": []}
    return {"all": worst, "answered": worst_runs(setting, split, part_of(held, ~held.abstained))}


def worst_runs(setting: Setting, split: Sequence[Split], held: HeldOut, count: int = COUNT) -> list[dict[str, Any]]:
    """The runs with the largest mean error over their held-out snapshots, the worst first.

    Accuracies, gaps and contributions are those of the last scored snapshot, as fitted without the run. `misled`: the
    feature that contributed most in the direction of that snapshot's error; None where none did. `outside`: features
    beyond the fitted range.
    """
    table, actual = setting.table, setting.table.numbers("gap.accuracy")
    runs = table.words("run")[held.rows]
    errors = 100 * np.abs(held.gap - actual[held.rows])
    names, which = np.unique(runs, return_inverse=True)
    means = np.bincount(which, errors) / np.bincount(which)
    fitted: dict[str, Predictor] = {}
    listed = []
    for place in np.argsort(-means, kind="stable")[:count]:
        own = np.flatnonzero(which == place)
        at = int(own[np.argmax(table.numbers("epoch")[held.rows[own]])])
        row = int(held.rows[at])
        name, known, _ = next(part for part in split if part[2][row])
        if name not in fitted:
            fitted[name] = fit(table, setting.specification, known & setting.among)
        signed = 100 * float(held.gap[at] - actual[row])
        prediction = _predicted(fitted[name], table, row)
        made = prediction.contributions  # none of features while abstaining
        contributions = [(f.name, rounded(100 * made[f.name])) for f in fitted[name].features if f.name in made]
        listed.append(
            {
                "run": str(names[place]),
                "task": str(table.words("task")[row]),
                **{fact: _fact(table, fact, row) for fact in _FACTS},
                "snapshots": len(own),
                "error": rounded(means[place]),
                "epoch": rounded(table.numbers("epoch")[row]),
                "train accuracy": rounded(table.numbers("measure.train_accuracy")[row]),
                "test accuracy": rounded(table.numbers("gap.test_accuracy")[row]),
                "predicted": rounded(100 * held.gap[at]),
                "actual": rounded(100 * actual[row]),
                "abstained": bool(held.abstained[at]),
                "outside": list(prediction.outside),
                "largest": list(max(contributions, key=lambda pair: abs(pair[1]), default=())) or None,
                "misled": list(_misled(contributions, signed)) or None,
            }
        )
    return listed


def _predicted(predictor: Predictor, table: Table, row: int) -> Prediction:
    needed = (*ALWAYS_NEEDED, *predictor.needs)
    return predictor.predict({name: float(table.numbers(f"measure.{name}")[row]) for name in needed})


def _misled(contributions: list[Contribution], signed: float) -> tuple[Any, ...]:
    towards = [pair for pair in contributions if pair[1] * signed > 0]
    return max(towards, key=lambda pair: abs(pair[1]), default=())


def _fact(table: Table, name: str, row: int) -> str:
    if name == "train_samples":
        return f"{table.numbers('measure.train_samples')[row]:.0f}"
    return str(table.columns[f"recipe.{name}"][row]) if f"recipe.{name}" in table.columns else "-"


def by_kind(setting: Setting, held: Mapping[str, HeldOut]) -> dict[str, Any]:
    """Error, mean signed error and skill of predictions held out by task, for each value of what makes a run."""
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
