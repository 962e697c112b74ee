"""What is fitted: the features with their transforms and the choices of the fit. A predictor's file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_gengap.predictors.components import Component

Transform = Literal["identity", "log"]
Scale = Literal["deviation", "log_size", "log_size_above"]


@dataclass(frozen=True)
class Term:
    """A measured key as it enters a fit.

    Attributes:
        floor: smallest raw value before the log; None for 1e-4 times the median of the fitted rows.
        scale: the unit in which distances from the fitted range count. `deviation`: the fitted rows' standard
            deviation. `log_size`: the log of 20, for values that are a multiple of the log of the train size, so that
            they reach as far as the train size does. `log_size_above`: the log of 20 above the range, the deviation
            below it.
        never_raises: the coefficient is kept at or below zero, and a constant column gets a coefficient of zero.
    """

    name: str
    transform: Transform = "identity"
    floor: float | None = None
    scale: Scale = "deviation"
    never_raises: bool = False


@dataclass(frozen=True)
class Group:
    """Measures of one kind, which add to what the features say of a gap.

    They are fitted to what the features leave, and add nothing on average. Where one of them is not measured none adds,
    so that the prediction without them goes on, and does not jump when they come.

    Attributes:
        penalty: the penalty on their coefficients, in units of that on the features'. None: an infinite one, so that
            all are zero. It is chosen by error on data sets that are held out.
    """

    name: str
    terms: tuple[Term, ...]
    penalty: float | None


@dataclass(frozen=True)
class Specification:
    """Everything that a fit needs to know besides the table.

    Attributes:
        bounds: terms with a coefficient of zero: only their distance from the fitted range counts.
        groups: further measures, in the order in which they are fitted to what is left.
        components: parts of the formula beside the features, in the order in which they add to the gap.
        test_accuracy: fit the test accuracy, so that train accuracy, the first feature, enters the gap with a
            coefficient of one. The order of models within a run and a task is then that of the other features.
        strength: of the ridge penalty; None where the fit chooses it by what it holds out.
        balanced: each task counts the same, and later snapshots count more. See `row_weights`.
        favoured: with `balanced`, a plan whose tasks count three times as much as others: runs as users train them.
        symmetric: the interval has one quantile, of the residuals' sizes, instead of one at either end.
        offset: the interval is as wide as a multiple of the predicted gap plus this. A larger offset makes the widths
            of different models more alike.
        loss_head: what the loss gap is predicted from. Empty: it is not predicted. `features`: these features and the
            train loss. `predicted_gap`: the predicted accuracy gap and the train loss.
        grid: fit only the runs of grids whose names begin with this, which is one family on one data set. There are
            too few tasks in it, so that the interval is calibrated over runs.
    """

    name: str
    features: tuple[Term, ...]
    bounds: tuple[Term, ...] = ()
    groups: tuple[Group, ...] = ()
    components: tuple[Component, ...] = ()
    strength: float | None = None
    test_accuracy: bool = False
    balanced: bool = False
    favoured: str = ""
    symmetric: bool = False
    offset: float = 0.05
    loss_head: Literal["", "features", "predicted_gap"] = ""
    grid: str = ""

    def __post_init__(self) -> None:
        if self.test_accuracy and [term.name for term in self.features[:1]] != ["train_accuracy"]:
            raise ValueError("a fit of the test accuracy whose first feature is not train_accuracy")

    @property
    def grouped(self) -> tuple[Term, ...]:
        """The terms of all groups: a row may lack them."""
        return tuple(term for group in self.groups for term in group.terms)

    @property
    def needs(self) -> tuple[str, ...]:
        """The measured keys that a row must have."""
        terms = (term.name for term in (*self.features, *self.bounds))
        return (*terms, *(name for component in self.components for name in component.needs))
