"""What each measure, each group of measures, the form and the linearity are worth, on common held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_gengap.keys import MEASURED
from lightning_gengap.zoo.abilities import Rows, last_snapshots, serving
from lightning_gengap.zoo.evaluation import TRIVIAL_BASELINE, Setting
from lightning_gengap.zoo.protocol import Mask, Split
from lightning_gengap.zoo.ranking import kendall, kendall_pool
from lightning_gengap.zoo.regressors import Regressor, boosted, hold_out_points, neural
from lightning_gengap.zoo.resampling import Score, over_groups
from lightning_gengap.zoo.specifications import Specification, Term
from lightning_gengap.zoo.table import Floats, Table

COMPARED = ("by task", "leave one family out", "leave one source out")
GROUPS = {
    "margins": ("margin", "bartlett"),
    "norms": ("norm", "norm_product", "path_norm", "complexity", "distance"),
    "sharpness": ("sharpness", "adaptive_sharpness", "pac_bayes", "worst_case"),
    "curvature": (
        *("soft_rank", "full_soft_rank", "diagonal_curvature", "kronecker_curvature", "hessian"),
        *("tic", "gradient_noise"),
    ),
    "leave-one-out": ("leave_one_out", "network_leave_one_out"),
    "perturbation": ("perturbation", "perturbed_margin"),
    "class structure": ("k_variance", "separability", "representation"),
    "difficulty": ("difficulty", "input_difficulty", "kernel_difficulty"),
    "train metrics": ("fit", "calibration", ""),
}
# Facts of the task, of the probe and of a measure's own working: no measures of generalization.
_AUXILIARY = {"train_samples", "classes", "classes_present", "probe_samples", "progress", "k_variance/classes"}
_WORKING = {"spectral_change", "lambda", "lambda_assumed", "lambda_varies", "samples", "products", "rung", "exact"}
_WORKING |= {"soft_rank_lower", "soft_rank_upper", "flagged"}
Contenders = Mapping[str, tuple[Specification, Regressor | None]]


def term_of(key: str) -> Term:
    """The log of what is positive and unbounded, everything else as it is."""
    known = MEASURED[key]
    return Term(key, "log" if known.low >= 0 and known.high == np.inf and known.unit != "log" else "identity")


def groups_of(table: Table, among: Mask) -> dict[str, tuple[Term, ...]]:
    """The measured keys of each group: those that vary, and are nearly as often there as the group's most frequent."""
    named = {measure: group for group, measures in GROUPS.items() for measure in measures}
    listed: dict[str, list[str]] = {}
    for key in measures_of(table, among):
        listed.setdefault(named.get(MEASURED[key].measure, "other"), []).append(key)
    chosen = {}
    for group in (*GROUPS, "other"):
        keys = listed.get(group, [])
        there = {key: int(np.isfinite(table.numbers(f"measure.{key}")[among]).sum()) for key in keys}
        kept = [key for key in keys if there[key] >= 0.9 * max(there.values())]
        if kept:
            chosen[group] = tuple(map(term_of, kept))
    return chosen


def measures_of(table: Table, among: Mask) -> list[str]:
    """Keys with at least two different values in these rows, without the auxiliary ones."""
    columns = {key: table.numbers(f"measure.{key}")[among] for key in MEASURED if f"measure.{key}" in table.columns}
    return [
        key
        for key, values in columns.items()
        if not _auxiliary(key) and len(np.unique(values[np.isfinite(values)])) > 1
    ]


def _auxiliary(key: str) -> bool:
    name = key.rpartition("/")[2]
    return key in _AUXILIARY or name in _WORKING or name.endswith("_censored") or key.startswith("age/")


def contest(
    setting: Setting, split_of: Mapping[str, list[Split]], among: Mask, contenders: Contenders, reference: str
) -> dict[str, Any]:
    """Mean absolute error of each contender on the compared splits, and what it gains over the reference, in points."""
    table, draws, actual = setting.table, setting.resampling, setting.table.numbers("gap.accuracy")
    listed: dict[str, Any] = {"rows": int(among.sum()), "runs": len(set(table.words("run")[among])), "splits": {}}
    for split in COMPARED:
        maes: dict[str, Score] = {}
        for name, (specification, regressor) in contenders.items():
            held = hold_out_points(table, specification, split_of[split], among, regressor, setting.codes)
            maes[name] = draws.mean(100 * np.abs(held.gap - actual[held.rows]), held.rows)
        listed["splits"][split] = {
            name: {"mae": mae.listed(), "gain": maes[reference].minus(mae).listed()} for name, mae in maes.items()
        }
    return listed


def groups(setting: Setting, split_of: Mapping[str, list[Split]], allowed: Mask) -> dict[str, Any]:
    """Each group added to the trivial features and to the specification, and taken from the specification and from all.

    Added: on the rows that have the group. Taken from all: on the rows that have every group which at least half of the
    rows have.
    """
    main, trivial = setting.specification, TRIVIAL_BASELINE
    chosen = groups_of(setting.table, allowed)
    listed: dict[str, Any] = {"keys": {name: [t.name for t in terms] for name, terms in chosen.items()}, "added": {}}
    for name, terms in chosen.items():
        rows = allowed & _finite(setting.table, terms)
        left = _without(main.features, terms)
        contenders = {
            "trivial": trivial,
            "trivial + group": replace(trivial, features=_union(trivial.features, terms)),
            main.name: main,
            f"{main.name} + group": replace(main, features=_union(main.features, terms)),
        }
        if left and len(left) < len(main.features):
            contenders[f"{main.name} - group"] = replace(main, features=left)
        listed["added"][name] = contest(setting, split_of, rows, _by_ridge(contenders), "trivial")
    there = {name: int((allowed & _finite(setting.table, terms)).sum()) for name, terms in chosen.items()}
    common = {name: terms for name, terms in chosen.items() if 2 * there[name] >= allowed.sum()}
    rows = np.logical_and.reduce([allowed, *(_finite(setting.table, terms) for terms in common.values())])
    whole = _union(trivial.features, *common.values())
    contenders = {"all": replace(main, features=whole)}
    for name, terms in common.items():
        contenders[f"all - {name}"] = replace(main, features=_without(whole, _without(terms, trivial.features)))
    if rows.any():
        listed["taken"] = contest(setting, split_of, rows, _by_ridge(contenders), "all")
    return listed


def forms(setting: Setting, split_of: Mapping[str, list[Split]]) -> dict[str, Any]:
    """Both readings of log-linear, for the specification and the trivial baseline, and towards larger train sizes."""
    wordings = {"additive": "additive", "product_of_powers": "product of powers"}
    contenders = {
        f"{base.name}, {words}": replace(base, form=form)
        for base in (setting.specification, TRIVIAL_BASELINE)
        for form, words in wordings.items()
    }
    reference = f"{setting.specification.name}, {wordings[setting.specification.form]}"
    listed = contest(setting, split_of, setting.among, _by_ridge(contenders), reference)
    table, actual = setting.table, setting.table.numbers("gap.accuracy")
    samples = table.numbers("measure.train_samples")
    small, large = (np.quantile(samples[setting.among], share) for share in (1 / 3, 2 / 3))
    fold: list[Split] = [("size", samples <= small, samples > max(large, 3 * small))]
    maes = {}
    for name, contender in contenders.items():
        held = hold_out_points(table, contender, fold, setting.among, None, setting.codes)
        maes[name] = setting.resampling.mean(100 * np.abs(held.gap - actual[held.rows]), held.rows)
    listed["splits"]["larger train sizes"] = {
        name: {"mae": mae.listed(), "gain": maes[reference].minus(mae).listed()} for name, mae in maes.items()
    }
    listed["sizes"] = {"fitted up to": float(small), "held out above": float(max(large, 3 * small))}
    return listed


def linearity(setting: Setting, split_of: Mapping[str, list[Split]]) -> dict[str, Any]:
    """The specification's features in a linear, a boosted and a neural regressor; gains are over the linear one."""
    main = setting.specification
    contenders: Contenders = {
        "log-linear": (main, None),
        "gradient-boosted trees": (replace(main, form="additive"), boosted),
        "small neural network": (replace(main, form="additive"), neural),
    }
    return contest(setting, split_of, setting.among, contenders, "log-linear")


def singles(setting: Setting, split_of: Mapping[str, list[Split]], allowed: Mask) -> dict[str, Any]:
    """Every measure alone and beside the trivial features, on the rows that have it; its order within tasks."""
    table, draws, actual = setting.table, setting.resampling, setting.table.numbers("gap.accuracy")
    cache: dict[tuple[str, bytes], tuple[Rows, Floats]] = {}
    listed = {}
    for key in measures_of(table, allowed):
        term = term_of(key)
        among = allowed & _finite(table, (term,))
        row: dict[str, Any] = {"rows": int(among.sum()), "splits": {}}
        for split in COMPARED:
            found = cache.get((split, among.tobytes()))
            if found is None:
                held = hold_out_points(table, TRIVIAL_BASELINE, split_of[split], among, None, setting.codes)
                found = cache[split, among.tobytes()] = (held.rows, np.abs(held.gap - actual[held.rows]))
            errors = {}
            for name, terms in {"alone": (term,), "added": _union(TRIVIAL_BASELINE.features, (term,))}.items():
                beside = replace(TRIVIAL_BASELINE, features=terms)
                held = hold_out_points(table, beside, split_of[split], among, None, setting.codes)
                errors[name] = np.abs(held.gap - actual[held.rows])
            rows, trivial = found
            row["splits"][split] = {name: draws.mean(100 * error, rows).listed() for name, error in errors.items()}
            row["splits"][split]["skill"] = draws.skill(errors["added"], trivial, rows).listed()
        row["tau"] = {name: tau.listed() for name, tau in _orders(table, np.flatnonzero(among), key).items()}
        listed[key] = row
    return listed


def _orders(table: Table, rows: Rows, key: str) -> dict[str, Score]:
    """Tau of a measure and the test accuracy within tasks; the direction is learned on the other tasks."""
    values, test = table.numbers(f"measure.{key}")[rows], table.numbers("gap.test_accuracy")[rows]
    runs, last = table.words("run")[rows], last_snapshots(table)[rows]
    settled = last & (table.numbers("measure.train_accuracy")[rows] >= 0.97)
    taus = {}
    for name, chosen in {"along training": np.ones(len(rows), bool), "converged": settled}.items():
        parts = serving(table, rows, chosen)
        own = np.array([kendall(values[part], test[part]) for part in parts])
        direction = np.sign(own.sum() - own)
        pools = [d * kendall_pool(values[p], test[p], runs[p]) for d, p in zip(direction, parts, strict=True)]
        taus[name] = over_groups(direction * own, np.stack(pools) if pools else np.zeros((0, 1)))
    return taus


def _by_ridge(contenders: Mapping[str, Specification]) -> Contenders:
    return {name: (specification, None) for name, specification in contenders.items()}


def _finite(table: Table, terms: Sequence[Term]) -> Mask:
    return np.asarray(np.isfinite([table.numbers(f"measure.{term.name}") for term in terms]).all(axis=0))


def _union(*parts: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in order, each measured key once."""
    return tuple({term.name: term for part in reversed(parts) for term in reversed(part)}.values())[::-1]


def _without(terms: Sequence[Term], gone: Sequence[Term]) -> tuple[Term, ...]:
    names = {term.name for term in gone}
    return tuple(term for term in terms if term.name not in names)
