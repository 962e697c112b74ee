"""Values derived from measured ones; the monitor and the zoo's tables use the same function. No torch."""

from __future__ import annotations

from collections.abc import Mapping


def derived(values: Mapping[str, float]) -> dict[str, float]:
    """Quantities that follow from the given ones; absent where an ingredient is.

    `difficulty/excess_accuracy` is the train accuracy minus the leave-one-out ridge accuracy: what is fitted beyond
    what a closed-form classifier would generalise to, a first guess of the gap.
    """
    if "train_accuracy" in values and "difficulty/ridge_accuracy" in values:
        return {"difficulty/excess_accuracy": values["train_accuracy"] - values["difficulty/ridge_accuracy"]}
    return {}
