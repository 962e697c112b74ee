"""What each group of measures is worth where it was measured: beside the trivial features and the specification's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lightning_gengap.zoo.evaluate.ablation import by_ridge, contest, finite, measures_of, term_of, union, without
from lightning_gengap.zoo.evaluate.regressors import Points, hold_out_points
from lightning_gengap.zoo.evaluate.splits import FOLDS, Mask, Split, by_task

from lightning_gengap.measures import MEASURED
from lightning_gengap.zoo.evaluate.abilities import serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE, Setting
from lightning_gengap.zoo.fit.specifications import Specification, Term
from lightning_gengap.zoo.table import Table

GROUPS = {
    "margins": ("margin", "bartlett"),
    "norms": ("norm", "norm_product", "path_norm", "complexity", "distance"),
    "sharpness": ("sharpness", "adaptive_sharpness", "pac_bayes", "worst_case"),
    "curvature": (
        *("soft_rank", "full_soft_rank", "diagonal_curvature", "kronecker_curvature", "hessian"),
        *("tic", "gradient_noise"),
    ),
    "leave-one-out": ("leave_one_out", "network_leave_one_out"),
    "perturbation": ("perturbation", "perturbed_margin", "augmentation"),
    "class structure": ("k_variance", "separability", "representation"),
    "difficulty": ("difficulty", "input_difficulty", "kernel_difficulty"),
    "train metrics": ("fit", "calibration", ""),
}
FEWEST_TASKS, FEWEST_FAMILIES = 5, 3
MOST_PARTS = 3
_COLUMNS = {"by task": "task", "leave one family out": "recipe.family", "leave one source out": "recipe.source"}


@dataclass(frozen=True)
class Group:
    """Measures of one kind that are there together.

    Attributes:
        terms: the measures, with their transforms.
        dropped: measures of this kind that are there on other rows, and in no group.
        rows: where all of them are there.
        scarce: on less than half of the rows.
    """

    terms: tuple[Term, ...]
    dropped: tuple[str, ...]
    rows: Mask
    scarce: bool


def groups_of(table: Table, among: Mask) -> dict[str, Group]:
    """By name, the groups with a varying measure; those that are not there together are numbered, scarce ones apart."""
    named = {measure: group for group, measures in GROUPS.items() for measure in measures}
    there = {key: among & finite(table, (term_of(key),)) for key in measures_of(table, among)}
    found = {}
    for group in (*GROUPS, "other"):
        own = [key for key in there if named.get(MEASURED[key].measure, "other") == group]
        frequent = [key for key in own if not scarce(there[key], among)]
        rare = [key for key in own if key not in frequent]
        for name, keys in ((group, frequent), (f"{group}, scarce ones" if frequent else group, rare)):
            for number, part in enumerate(_together({key: there[key] for key in keys}, keys is rare), start=1):
                found[name if number == 1 else f"{name} ({number})"] = part
    return found


def scarce(there: Mask, among: Mask) -> bool:
    """Whether a measure is there on less than half of the rows."""
    return bool(2 * (there & among).sum() < among.sum())


def _together(there: Mapping[str, Mask], is_scarce: bool) -> Iterator[Group]:
    """The most frequent measure with those that cost it, all together, a tenth of its rows at most; then the others."""
    left = sorted(there, key=lambda key: -int(there[key].sum()))
    for number in range(MOST_PARTS):
        if not left:
            return
        rows = there[left[0]]
        fewest, kept = 0.9 * rows.sum(), []
        for key in left:
            if (rows & there[key]).sum() >= fewest:
                rows = rows & there[key]
                kept.append(key)
        left = [key for key in left if key not in kept]
        dropped = tuple(left) if number == MOST_PARTS - 1 else ()
        yield Group(tuple(term_of(key) for key in there if key in kept), dropped, rows, is_scarce)


def groups(setting: Setting, split_of: Mapping[str, list[Split]], allowed: Mask) -> dict[str, Any]:
    """Each group added to the trivial features and to the specification, and taken from the specification and from all.

    Added: on the rows that have the group; where there are fewer than 20 tasks, each is held out by itself, and the
    ridge strength of scarce groups is chosen by task. Taken from all: on the rows that have every group which at least
    half of the rows have.
    """
    chosen = groups_of(setting.table, allowed)
    singly: list[Split] = []
    listed: dict[str, Any] = {"absent": [name for name in GROUPS if name not in chosen], "added": {}}
    for name, group in chosen.items():
        tasks = len(set(setting.table.words("task")[group.rows]))
        if FEWEST_TASKS <= tasks < 2 * FOLDS and not singly:
            singly = list(by_task(setting.table, len(set(setting.table.words("task")))))
        own_splits = {**split_of, "by task": singly} if tasks < 2 * FOLDS else split_of
        listed["added"][name] = _added(setting, own_splits, group)
    listed["taken"] = _taken(setting, split_of, allowed, chosen)
    return listed


def _added(setting: Setting, split_of: Mapping[str, list[Split]], group: Group) -> dict[str, Any]:
    table, main, trivial = setting.table, setting.specification, TRIVIAL_BASELINE
    contenders = {
        "trivial": trivial,
        "trivial + group": replace(trivial, features=union(trivial.features, group.terms)),
        main.name: main,
        f"{main.name} + group": replace(main, features=union(main.features, group.terms)),
    }
    # Where the test accuracy is fitted, train accuracy is no free feature and cannot be taken.
    given = main.features[:1] if main.test_accuracy else ()
    left = (*given, *without(main.features[len(given) :], group.terms))
    if len(given) < len(left) < len(main.features):
        contenders[f"{main.name} - group"] = _without(main, left, group.terms)
    counts = {name: len(set(table.words(column)[group.rows])) for name, column in _COLUMNS.items()}
    listed: dict[str, Any] = {
        "keys": [term.name for term in group.terms],
        "dropped": list(group.dropped),
        "scarce": group.scarce,
        "rows": int(group.rows.sum()),
        "runs": len(set(table.words("run")[group.rows])),
        "tasks": counts["by task"],
        "families": counts["leave one family out"],
        "splits": {},
    }
    for name in _COLUMNS:
        if counts["by task"] < FEWEST_TASKS:
            listed["splits"][name] = {"too few": "tasks", "count": counts["by task"]}
        elif name != "by task" and counts[name] < FEWEST_FAMILIES:
            kind = "families" if name == "leave one family out" else "sources"
            listed["splits"][name] = {"too few": kind, "count": counts[name]}
        else:
            listed["splits"][name] = _scored(setting, split_of[name], group, contenders)
    return listed


def _scored(
    setting: Setting, split: list[Split], group: Group, contenders: Mapping[str, Specification]
) -> dict[str, Any]:
    """Errors, taus within tasks, and what each contender gains over the same features without the group."""
    table, draws, main = setting.table, setting.resampling, setting.specification.name
    codes = replace(setting.codes, fold=setting.codes.task) if group.scarce else setting.codes
    fewest = FEWEST_TASKS - 1  # so that one of five can be held out
    held: dict[str, Points] = {}
    for name, contender in contenders.items():
        held[name] = hold_out_points(table, contender, split, group.rows, None, codes, fewest)
    rows = held["trivial"].rows
    tasks = len(set(table.words("task")[rows]))
    if tasks < FEWEST_TASKS:
        return {"too few": "tasks that leave enough to fit on", "count": tasks}
    actual, train = table.numbers("gap.accuracy")[rows], table.numbers("measure.train_accuracy")[rows]
    test, runs = table.numbers("gap.test_accuracy")[rows], table.words("run")[rows]
    parts = serving(table, rows, np.ones(len(rows), bool))
    maes = {name: draws.mean(100 * np.abs(points.gap - actual), rows) for name, points in held.items()}
    result: dict[str, Any] = {"rows": len(rows), "tasks": tasks, "ranked tasks": len(parts)}
    result |= _gains("mae", {name: mae for name, mae in maes.items()}, main, -1)
    if len(parts) >= FEWEST_TASKS:
        taus = {name: within(train - points.gap, test, runs, parts) for name, points in held.items()}
        result |= _gains("tau", taus, main, 1)
    return result


def _gains(kind: str, scores: Mapping[str, Score], main: str, sign: int) -> dict[str, Any]:
    gains = {}
    for name, score in scores.items():
        if name not in ("trivial", main):
            difference = score.minus(scores["trivial" if name.startswith("trivial +") else main])
            gains[name] = Score(sign * difference.value, sign * difference.draws).listed()
    return {kind: {name: score.listed() for name, score in scores.items()}, f"{kind} gain": gains}


def _taken(
    setting: Setting, split_of: Mapping[str, list[Split]], allowed: Mask, chosen: Mapping[str, Group]
) -> dict[str, Any]:
    main, trivial = setting.specification, TRIVIAL_BASELINE
    common = {name: group.terms for name, group in chosen.items() if not scarce(group.rows, allowed)}
    rows = np.logical_and.reduce([allowed, *(finite(setting.table, terms) for terms in common.values())])
    if not common or not rows.any():
        return {}
    whole = union(trivial.features, *common.values())
    contenders = {"all": replace(main, features=whole)}
    for name, terms in common.items():
        contenders[f"all - {name}"] = _without(main, without(whole, without(terms, trivial.features)), terms)
    return contest(setting, split_of, rows, by_ridge(contenders), "all")


def _without(main: Specification, left: tuple[Term, ...], taken: tuple[Term, ...]) -> Specification:
    """With the features that are left, and without the memoriser where that is taken too."""
    gone = main.memoriser in {term.name for term in taken}
    return replace(main, features=left, memoriser="" if gone else main.memoriser)
