"""What is fitted: features, their transforms and the form, of the bundled predictors and of their baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

LAYERS = ("input", "h1", "h2", "h3")


class Term(NamedTuple):
    """A measured key, its transform, and the smallest raw value before the log (default 1e-4 x its median)."""

    name: str
    transform: str
    floor: float | None = None


TRIVIAL = (
    Term("train_accuracy", "identity"),
    Term("train_loss", "log"),
    Term("train_samples", "log"),
    Term("classes", "log"),
)
JIANG = tuple(
    Term(f"margin/{layer}/{statistic}", "log")
    for layer in LAYERS
    for statistic in ("lower_whisker", "q1", "median", "q3", "upper_whisker")
)


@dataclass(frozen=True)
class Specification:
    """What is fitted: features with their transforms, and the form.

    Attributes:
        form: `product_of_powers`: log of the gap, floored at one accuracy point, is linear; `additive`: the gap is.
        grid: fit only runs of the grids whose names begin so: one family on one data set; the interval is then
            calibrated over runs, for there are too few tasks.
        loss_head: whether the loss gap is predicted too; with `loss_of_gap` from the predicted accuracy gap.
        test_accuracy: fit the test accuracy on the features, so that train accuracy, the first feature, enters the
            gap with coefficient one: within a run and a task the order of models is then that of the other features.
        balanced: each task counts the same in the fit, and later snapshots more, see `weighting`.
        symmetric: the interval is as wide above as below, by one quantile of the residuals' sizes instead of two of
            their values.
        offset: the interval is as wide as a multiple of the predicted gap plus this: the larger, the more even.
        memoriser: the key of a memorising classifier's accuracy, below which the predicted test accuracy hardly falls.
        bounds: features with a coefficient of zero: only how far they are from the fitted rows counts.
    """

    name: str
    features: tuple[Term, ...]
    form: str = "product_of_powers"
    grid: str = ""
    loss_head: bool = False
    loss_of_gap: bool = False
    test_accuracy: bool = False
    balanced: bool = False
    symmetric: bool = False
    offset: float = 0.05
    memoriser: str = ""
    bounds: tuple[Term, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The measured keys that a row must have."""
        return tuple(term.name for term in (*self.features, *self.bounds)) + (self.memoriser,) * bool(self.memoriser)


DEFAULT = Specification(
    "default_v1",
    (
        Term("train_accuracy", "identity"),
        Term("train_loss", "log"),
        Term("train_samples", "log"),
        Term("difficulty/ridge_accuracy", "identity"),
        Term("difficulty/excess_accuracy", "log", 0.02),
        Term("margin/input/median", "log"),
    ),
    "additive",
)


# For images: accuracy on flipped and shifted copies tells apart models trained with and without augmentation.
IMAGES = Specification("images_v1", (*DEFAULT.features, Term("perturbation/augment_accuracy", "identity")), "additive")
DEFAULT_2 = replace(DEFAULT, name="default_v2", loss_head=True)
# Level from the data alone, the same for all models of a task; order from the accuracy on augmented copies.
IMAGES_2 = Specification(
    "images_v2",
    (
        Term("train_accuracy", "identity"),
        Term("perturbation/augment_accuracy", "identity"),
        Term("input_difficulty/patch_accuracy", "identity"),
        Term("difficulty/neighbour_10_accuracy", "identity"),
        Term("train_samples", "log"),
    ),
    "additive",
    loss_head=True,
    test_accuracy=True,
)
# Balanced from here on. What a closed-form classifier makes of the probe is extrapolated to the train size, which else
# only bounds the support. A network that fits its labels is at least as good in tests as the nearest neighbour, which
# fits all of them. Errors grow little with the predicted gap, hence the offset.
DEFAULT_3 = Specification(
    "default_v3",
    (
        Term("train_accuracy", "identity"),
        Term("difficulty/ridge_extrapolated", "identity"),
    ),
    "additive",
    loss_head=True,
    loss_of_gap=True,
    balanced=True,
    symmetric=True,
    offset=0.3,
    memoriser="difficulty/neighbour_1_accuracy",
    bounds=(Term("train_samples", "log"),),
)
# Copies on which hardly anything is lost were trained on, and are discounted. The larger the training set, the more
# weighs what was learnt beyond a closed-form classifier.
IMAGES_3 = Specification(
    "images_v3",
    (
        Term("train_accuracy", "identity"),
        Term("perturbation/discounted_accuracy", "identity"),
        Term("input_difficulty/patch_extrapolated", "identity"),
        Term("difficulty/neighbour_10_extrapolated", "identity"),
        Term("perturbation/excess_by_size", "identity"),
    ),
    "additive",
    loss_head=True,
    loss_of_gap=True,
    test_accuracy=True,
    balanced=True,
    symmetric=True,
    offset=0.3,
    memoriser="difficulty/neighbour_1_accuracy",
    bounds=(Term("train_samples", "log"),),
)
# No margins: the task's level from its data, the order from copies and mixes. Chosen on the CIFAR-100 ResNets.
_IN_FAMILY = (
    Term("train_accuracy", "identity"),
    Term("perturbation/discounted_accuracy", "identity"),
    Term("perturbation/augment_accuracy", "identity"),
    Term("perturbation/mix_accuracy", "identity"),
    Term("input_difficulty/patch_accuracy", "identity"),
)
GROUPS = tuple(
    Specification(f"{group}_small_v1", _IN_FAMILY, "additive", grid=group, symmetric=True, offset=2.0)
    for group in ("cifar10_cnn", "cifar10_resnet", "cifar100_resnet")
)
MARGINS = Specification("margins_v1", JIANG, "additive")
SPECIFICATIONS = {
    one.name: one for one in (DEFAULT, IMAGES, DEFAULT_2, IMAGES_2, DEFAULT_3, IMAGES_3, MARGINS, *GROUPS)
}
