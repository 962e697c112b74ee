"""Invariances of the keys that do not declare them in their own file yet."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import cast

from lightning_gengap.measures.key import Cell, Invariances

# The first pattern that matches a key counts. Columns: logits, relu, batch_norm.
INVARIANCES: dict[str, Invariances] = {
    pattern: Invariances(*cast(list[Cell], cells.split()))
    for pattern, cells in {
        "norm/spectral_change": "open open open",
        "norm/*": "no yes yes",
        "path_norm/*over_margin": "yes yes yes",
        "path_norm/*": "no yes yes",
        "complexity/parameters": "yes yes yes",
        "complexity/*over_margin*": "yes yes yes",
        "complexity/frobenius_over_spectral*": "yes yes yes",
        "complexity/log_spectral_origin*": "yes yes yes",
        "complexity/log_spectral_initial*": "no no yes",
        "complexity/distance_spectral*": "no no yes",
        "complexity/*": "no yes yes",
        "norm_product/*_over_margin": "yes yes yes",
        "norm_product/log_bound_spectral_*": "no no yes",
        "norm_product/log_bound_*": "yes yes yes",
        "norm_product/*": "no yes yes",
        "distance/*": "no no yes",
        "gradient_noise/signal": "no nearly nearly",
        "gradient_noise/*": "no no no",
        "sharpness/adaptive_*_drop": "yes yes yes",
        "sharpness/adaptive_*": "no yes yes",
        "sharpness/*_drop": "open open yes",
        "sharpness/*": "no no yes",
        "adaptive_sharpness/*_drop": "yes yes yes",
        "adaptive_sharpness/*_normalized": "yes yes yes",
        "adaptive_sharpness/*": "no yes yes",
        "pac_bayes/*_censored": "open open yes",
        "pac_bayes/magnitude_sigma": "nearly nearly yes",
        "pac_bayes/magnitude_sigma_drop": "nearly nearly yes",
        "pac_bayes/magnitude_flatness": "nearly nearly yes",
        "pac_bayes/*_drop": "open open yes",
        "pac_bayes/*": "no no yes",
        "worst_case/sharpness*": "no no yes",
        "worst_case/*": "open yes yes",
    }.items()
}


def invariance_of(key: str) -> Invariances | None:
    """What is declared for a key; None where nothing is."""
    return next((cells for pattern, cells in INVARIANCES.items() if fnmatchcase(key, pattern)), None)
