"""Which measured keys can be compared as measures of generalization, and as what kind of feature."""

from __future__ import annotations

import numpy as np

from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.specification import Term
from lightning_gengap.zoo.table import Mask, Table

# Facts of the task, of the probe and of a measure's own working: no measures of generalization.
_AUXILIARY = {"train_samples", "classes", "classes_present", "probe_samples", "progress", "k_variance/classes"}
_WORKING = {"spectral_change", "lambda", "lambda_assumed", "lambda_varies", "samples", "products", "rung", "exact"}
_WORKING |= {"soft_rank_lower", "soft_rank_upper", "flagged"}


def term_of(key: str) -> Term:
    """The log of what is positive and unbounded, everything else as it is."""
    known = MEASURED[key]
    return Term(key, "log" if known.low >= 0 and known.high == np.inf and known.unit != "log" else "identity")


def measures_of(table: Table, among: Mask) -> list[str]:
    """Keys with at least two different values in these rows, without the auxiliary ones."""
    keys = [key for key in MEASURED if f"measure.{key}" in table.columns and not _auxiliary(key)]
    columns = table.measured(keys, among)
    return [key for key, values in columns.items() if len(np.unique(values[np.isfinite(values)])) > 1]


def _auxiliary(key: str) -> bool:
    name = key.rpartition("/")[2]
    return key in _AUXILIARY or name in _WORKING or name.endswith("_censored") or key.startswith("age/")
