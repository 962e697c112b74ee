"""Held-out scores of the loss-gap head against baselines, on the rows on which the accuracy gap is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lightning_gengap.zoo.evaluate.abilities import last_snapshots, serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Resampling, Score, rounded
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting
from lightning_gengap.zoo.fit.loss_head import FLOOR, fit_loss_head, fit_loss_point, values_of, with_gaps
from lightning_gengap.zoo.hold_out import hold_out
from lightning_gengap.zoo.splits import Split
from lightning_gengap.zoo.table import Floats, Mask, Rows

SCORED = ("by task", "leave one family out", "leave one data set out", "leave one source out")
Losses = Mapping[str, tuple[Floats, ...]]  # by contender: gap, lower and upper end, in nats


def loss_scores(setting: Setting, parts: Mapping[str, tuple[Sequence[Split], Mapping[str, HeldOut]]]) -> dict[str, Any]:
    """By split: errors in nats and of the log, R2 in both, rank correlation, coverage; with 95 % intervals.

    Where the predictor of the accuracy gap abstains, the head says its prior. In logs, gaps below the floor count
    as the floor, and so do negative ones. Errors in nats and the coverage take gaps as they are. Of the baselines, the
    constant (here the geometric mean) and the trivial features take part. `parts` holds by name a split and the
    held-out accuracy gaps by contender. Without a head or a loss gap there are no scores.
    """
    there = setting.among & np.isfinite(setting.table.numbers("gap.loss"))
    if not setting.specification.loss_head or not there.any():
        return {}
    listed: dict[str, Any] = {"floor": FLOOR, "rows": int(there.sum()), "splits": {}}
    for name, (split, held) in parts.items():
        rows, losses, abstained = _held_losses(setting, split, held, there)
        if len(rows) == 0:
            listed["splits"][name] = {"rows": 0}
            continue
        listed["splits"][name] = _compared(setting, rows, losses, abstained)
        if name == "by task":
            listed["ranking"] = _ranked(setting, rows, losses)
        if name.startswith("leave"):
            listed["splits"][name]["groups"] = _listed(setting, rows, losses, abstained, split)
    return listed


def _held_losses(
    setting: Setting, split: Sequence[Split], held: Mapping[str, HeldOut], there: Mask
) -> tuple[Rows, Losses, Mask]:
    """Held-out rows in the table's order, each contender's losses for them, and the specification's abstentions."""
    table, main = setting.table, setting.specification.name
    contenders = [one for one in setting.contenders if one.name in (main, "trivial", "constant")]
    gaps, silent = np.full(len(table), np.nan), {one.name: np.zeros(len(table), bool) for one in contenders}
    gaps[held[main].rows] = held[main].gap
    for name, abstained in silent.items():
        abstained[held[name].rows] = held[name].abstained
    said = with_gaps(table, gaps)

    def method(known: Mask, rows: Mask) -> Floats:
        ends: list[Floats] = []
        for one in contenders:
            # The baselines are asked for no interval, which would take ten more fits.
            head = fit_loss_head(table, one, known) if one.name == main else fit_loss_point(table, one, known)
            assert head is not None, "the known rows have loss gaps"
            ends += head.predict_columns(values_of(head, said, rows), silent[one.name][rows])
        return np.stack(ends)

    asked = [(name, fitted, group & np.isfinite(gaps)) for name, fitted, group in split]
    found = hold_out(asked, there, method, kinds=3 * len(contenders))
    losses = {one.name: tuple(found.values[3 * place : 3 * place + 3]) for place, one in enumerate(contenders)}
    return found.rows, losses, silent[main][found.rows]


def _compared(setting: Setting, rows: Rows, losses: Losses, abstained: Mask) -> dict[str, Any]:
    main, draws, actual = setting.specification.name, setting.resampling, setting.table.numbers("gap.loss")[rows]
    floored = np.maximum(actual, FLOOR)
    gaps = {name: gap for name, (gap, _, _) in losses.items()}
    logs = {name: np.log(gap) for name, gap in gaps.items()}
    errors = {name: np.abs(gap - actual) for name, gap in gaps.items()}
    log_errors = {name: np.abs(log - np.log(floored)) for name, log in logs.items()}
    _, lower, upper = losses[main]
    inside = ((actual >= lower) & (actual <= upper)).astype(float)
    inside_floored = ((floored >= lower) & (floored <= upper)).astype(float)
    kept = ~abstained
    return {
        "rows": len(rows),
        "mae": {name: draws.mean(error, rows).listed() for name, error in errors.items()},
        "r2": {name: draws.r2(gap, actual, rows).listed() for name, gap in gaps.items()},
        "log mae": {name: draws.mean(error, rows).listed() for name, error in log_errors.items()},
        "log r2": {name: draws.r2(log, np.log(floored), rows).listed() for name, log in logs.items()},
        "rank correlation": {
            name: rank_correlation(draws, gap, actual, rows).listed()
            for name, gap in gaps.items()
            if name != "constant"
        },
        "skill": draws.skill(errors[main], errors["trivial"], rows).listed(),
        "log skill": draws.skill(log_errors[main], log_errors["trivial"], rows).listed(),
        "coverage": {
            "kept": draws.mean(inside[kept], rows[kept]).listed(),
            "all": draws.mean(inside, rows).listed(),
            "floored": draws.mean(inside_floored[kept], rows[kept]).listed(),
            "counts": [int(inside[kept].sum()), int(kept.sum())],
        },
        "below floor": rounded((actual < FLOOR).mean()),
        "abstained": rounded(abstained.mean()),
    }


def rank_correlation(draws: Resampling, score: Floats, actual: Floats, rows: Rows) -> Score:
    """Spearman's correlation; the draws keep the ranks among all rows and weigh them."""
    if len(rows) == 0:
        return Score(float("nan"), np.full(len(draws.weights), np.nan))
    ours, theirs = (rankdata(values) - (len(rows) + 1) / 2 for values in (score, actual))
    first, second, both, squared, other = (
        draws.mean(values, rows) for values in (ours, theirs, ours * theirs, ours**2, theirs**2)
    )

    def correlation(one: Any, two: Any, product: Any, square: Any, another: Any) -> Any:
        spread = (square - one**2) * (another - two**2)
        return (product - one * two) / np.sqrt(np.where(spread > 0, spread, np.nan))

    terms = (first, second, both, squared, other)
    return Score(float(correlation(*(t.value for t in terms))), correlation(*(t.draws for t in terms)))


def _ranked(setting: Setting, rows: Rows, losses: Losses) -> dict[str, Any]:
    """Tau of predicted and actual loss gap within held-out tasks, along training and among last snapshots."""
    table = setting.table
    actual, runs, last = table.numbers("gap.loss")[rows], table.words("run")[rows], last_snapshots(table)[rows]
    listed = {}
    for name, chosen in {"along training": np.ones(len(rows), bool), "final": last}.items():
        parts = serving(table, rows, chosen)
        scores = {key: gap for key, (gap, _, _) in losses.items() if key != "constant"}
        scores["minus train loss"] = -table.numbers("measure.train_loss")[rows]
        taus = {key: within(score, actual, runs, parts).listed() for key, score in scores.items()}
        listed[name] = {"tasks": len(parts), "snapshots": sum(map(len, parts)), "tau": taus}
    return listed


def _listed(setting: Setting, rows: Rows, losses: Losses, abstained: Mask, split: Sequence[Split]) -> dict[str, Any]:
    """Per held-out group: errors in nats and of the log, and coverage."""
    listed = {}
    for name, _, group in split:
        chosen = group[rows]
        if chosen.any():
            part = {key: tuple(column[chosen] for column in columns) for key, columns in losses.items()}
            compared = _compared(setting, rows[chosen], part, abstained[chosen])
            listed[name] = {key: compared[key] for key in ("rows", "mae", "log mae", "log skill", "coverage")}
    return listed
