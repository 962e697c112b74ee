"""What the form and the linearity are worth, on common held-out rows; which measures can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lightning_gengap.zoo.evaluate.regressors import Regressor, boosted, hold_out_points, neural
from lightning_gengap.zoo.evaluate.splits import Mask, Split

from lightning_gengap.measures import MEASURED
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE, Setting
from lightning_gengap.zoo.fit.specifications import Specification, Term
from lightning_gengap.zoo.table import Table

COMPARED = ("by task", "leave one family out", "leave one source out")
# Facts of the task, of the probe and of a measure's own working: no measures of generalization.
_AUXILIARY = {"train_samples", "classes", "classes_present", "probe_samples", "progress", "k_variance/classes"}
_WORKING = {"spectral_change", "lambda", "lambda_assumed", "lambda_varies", "samples", "products", "rung", "exact"}
_WORKING |= {"soft_rank_lower", "soft_rank_upper", "flagged"}
Contenders = Mapping[str, tuple[Specification, Regressor | None]]


def term_of(key: str) -> Term:
    """The log of what is positive and unbounded, everything else as it is."""
    known = MEASURED[key]
    return Term(key, "log" if known.low >= 0 and known.high == np.inf and known.unit != "log" else "identity")


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


def forms(setting: Setting, split_of: Mapping[str, list[Split]]) -> dict[str, Any]:
    """Both readings of log-linear, for the specification and the trivial baseline, and towards larger train sizes."""
    wordings = {"additive": "additive", "product_of_powers": "product of powers"}
    contenders = {
        f"{base.name}, {words}": replace(base, form=form, test_accuracy=base.test_accuracy and form == "additive")
        for base in (setting.specification, TRIVIAL_BASELINE)
        for form, words in wordings.items()
    }
    reference = f"{setting.specification.name}, {wordings[setting.specification.form]}"
    listed = contest(setting, split_of, setting.among, by_ridge(contenders), reference)
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
    """The specification's features in a linear, a boosted and a neural regressor; gains are over the linear one.

    All three weigh the rows alike.
    """
    main = replace(setting.specification, balanced=False)
    contenders: Contenders = {
        "log-linear": (main, None),
        "gradient-boosted trees": (replace(main, form="additive"), boosted),
        "small neural network": (replace(main, form="additive"), neural),
    }
    return contest(setting, split_of, setting.among, contenders, "log-linear")


def by_ridge(contenders: Mapping[str, Specification]) -> Contenders:
    """Contenders that are all fitted by ridge."""
    return {name: (specification, None) for name, specification in contenders.items()}


def finite(table: Table, terms: Sequence[Term]) -> Mask:
    """The rows that have all of the measures."""
    return np.asarray(np.isfinite([table.numbers(f"measure.{term.name}") for term in terms]).all(axis=0))


def union(*parts: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in order, each measured key once."""
    return tuple({term.name: term for part in reversed(parts) for term in reversed(part)}.values())[::-1]


def without(terms: Sequence[Term], gone: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in order, but for those of the measured keys that are gone."""
    names = {term.name for term in gone}
    return tuple(term for term in terms if term.name not in names)
