"""Invariances of the keys that do not declare them in their own file yet."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import cast

from lightning_gengap.measures.key import Cell, Invariances

# The first pattern that matches a key counts. Columns: logits, relu, batch_norm.
INVARIANCES: dict[str, Invariances] = {
    pattern: Invariances(*cast(list[Cell], cells.split()))
    for pattern, cells in {
        "gradient_noise/signal": "no nearly nearly",
        "gradient_noise/*": "no no no",
        "curvature/lambda*": "yes yes yes",
        "curvature/kronecker/share": "yes yes yes",
        "curvature/*samples": "yes yes yes",
        "curvature/*parameters": "yes yes yes",
        "curvature/*products": "open open open",
        "curvature/rung": "open open open",
        "curvature/hessian/soft_rank_clamped": "no no no",
        "curvature/hessian/trace": "no no no",
        "curvature/hessian/top_eigenvalue": "no no no",
        "curvature/hessian/*": "open open open",
        "curvature/*": "no no no",
        "loo/*/accuracy_gap": "open open open",
        "loo/*/leverage": "open open open",
        "loo/last_layer/loss_gap": "no no yes",
        "loo/network/loss_gap": "no no no",
        "loo/*": "yes yes yes",
    }.items()
}


def invariance_of(key: str) -> Invariances | None:
    """What is declared for a key; None where nothing is."""
    return next((cells for pattern, cells in INVARIANCES.items() if fnmatchcase(key, pattern)), None)
