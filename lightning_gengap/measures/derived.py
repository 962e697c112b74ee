"""Values derived from measured ones. The monitor and the zoo's tables use the same function. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from lightning_gengap.measures.key import INVARIANT, Key

DISCOUNT, CREDIT, ENOUGH = 0.3, 0.05, 0.1
LARGE = 2000  # training samples from which on copies tell more than closed-form classifiers
INGREDIENTS = {
    "difficulty/excess_accuracy": ("train_accuracy", "difficulty/ridge_accuracy"),
    "perturbation/discounted_accuracy": ("train_accuracy", "perturbation/augment_accuracy"),
    "perturbation/excess_by_size": (
        "train_accuracy",
        "perturbation/augment_accuracy",
        "input_difficulty/patch_accuracy",
        "train_samples",
    ),
    "agreement/by_reference": ("train_accuracy", "agreement/best", "reference/best_accuracy"),
    "agreement/reference_by_accuracy": ("train_accuracy", "reference/best_accuracy"),
    "reference/best_error": ("reference/best_accuracy",),
    "copies/least_by_reference": ("copies/least_accuracy", "reference/best_accuracy"),
}
KEYS = {
    "difficulty/excess_accuracy": Key(
        "fraction", -1, 1, "train accuracy minus difficulty/ridge_accuracy", INVARIANT, measure="difficulty"
    ),
    "perturbation/discounted_accuracy": Key(
        "fraction",
        -1,
        1,
        "accuracy on flipped and shifted images, less where hardly anything is lost on them",
        INVARIANT,
        measure="perturbation",
    ),
    "perturbation/excess_by_size": Key(
        "none",
        0,
        math.inf,
        "with input_difficulty: discounted accuracy beyond its patches' one, by the log of the train size over 2,000",
        INVARIANT,
        measure="perturbation",
    ),
    "agreement/by_reference": Key(
        "fraction", 0, 1, "agreement/best times reference/best_accuracy", INVARIANT, measure="agreement"
    ),
    "agreement/reference_by_accuracy": Key(
        "fraction", 0, 1, "train accuracy times reference/best_accuracy", INVARIANT, measure="agreement"
    ),
    "reference/best_error": Key("fraction", 0, 1, "1 minus reference/best_accuracy", INVARIANT, measure="reference"),
    "copies/least_by_reference": Key(
        "fraction", 0, 1, "copies/least_accuracy times reference/best_accuracy", INVARIANT, measure="copies"
    ),
}


def with_ingredients(keys: Iterable[str]) -> frozenset[str]:
    """The keys, and those that the derived ones among them follow from."""
    return frozenset(key for name in keys for key in (name, *INGREDIENTS.get(name, ())))


def derived(values: Mapping[str, float]) -> dict[str, float]:
    """Quantities that follow from the given ones; one is absent where an ingredient is.

    `difficulty/excess_accuracy` is what is fitted beyond what a closed-form classifier would generalise to, a first
    guess of the gap. For `perturbation/discounted_accuracy` see `discounted_accuracy`. `perturbation/excess_by_size` is
    the product of two numbers, each at least zero: how far the discounted accuracy exceeds the leave-one-out ridge
    accuracy on whitened patches, and the natural log of the train size over 2,000. The more data, the more of what is
    fitted beyond such a classifier carries over. `agreement/by_reference` and `agreement/reference_by_accuracy` are the
    products of the best reference's accuracy with the agreement and with the train accuracy: in these five the test
    accuracy is nearly linear. `reference/best_error` is there for its log: a network is nearer to the best reference
    where that one is nearly right. `copies/least_by_reference` is the product of that accuracy with what is left on
    copies.
    """
    found: dict[str, float] = {}
    reference, accuracy = values.get("reference/best_accuracy"), values.get("train_accuracy")
    if reference is not None:
        found["reference/best_error"] = 1 - reference
        if "copies/least_accuracy" in values:
            found["copies/least_by_reference"] = values["copies/least_accuracy"] * reference
    if accuracy is None:
        return found
    if "difficulty/ridge_accuracy" in values:
        found["difficulty/excess_accuracy"] = accuracy - values["difficulty/ridge_accuracy"]
    if reference is not None:
        found["agreement/reference_by_accuracy"] = accuracy * reference
        if "agreement/best" in values:
            found["agreement/by_reference"] = values["agreement/best"] * reference
    if "perturbation/augment_accuracy" not in values:
        return found
    discounted = discounted_accuracy(accuracy, values["perturbation/augment_accuracy"])
    found["perturbation/discounted_accuracy"] = discounted
    if "input_difficulty/patch_accuracy" in values and values.get("train_samples", 0) > 0:
        excess = max(discounted - values["input_difficulty/patch_accuracy"], 0.0)
        found["perturbation/excess_by_size"] = excess * max(math.log(values["train_samples"] / LARGE), 0.0)
    return found


def discounted_accuracy(accuracy: float, on_copies: float) -> float:
    """The accuracy on augmented copies, plus 0.05 of what is lost on them, minus 0.3 of what that loss lacks to 0.1.

    A network that loses hardly anything on such copies was trained on them, so they tell less of unseen data. The
    constants were chosen on the development part of the zoo.
    """
    lost = accuracy - on_copies
    lacking = ENOUGH - min(max(lost, 0.0), ENOUGH)
    return on_copies + CREDIT * lost - DISCOUNT * lacking
