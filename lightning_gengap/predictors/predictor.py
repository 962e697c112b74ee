"""Predictors: log-linear functions of measured values. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.feature import Feature

FORMS = ("product_of_powers", "additive")


@dataclass(frozen=True)
class Interval:
    """Conformal interval: gap + quantile x (gap + offset), widened by 1 + distance from the support.

    Attributes:
        level: nominal coverage.
        below, above: quantiles of (actual - predicted) / (predicted + offset) over held-out tasks.
    """

    level: float
    offset: float
    below: float
    above: float


@dataclass(frozen=True)
class Memoriser:
    """A classifier that memorises its data, as the nearest neighbour does: a network is seldom worse in tests.

    Attributes:
        name: the key of its leave-one-out accuracy; the network's train accuracy bounds it.
        kept: of what the predicted test accuracy lies below it, in [0, 1], so that models keep their order.
    """

    name: str
    kept: float

    def raised(self, gap: float, accuracy: float, value: float) -> float:
        """What it adds to a gap: at most zero."""
        return (1 - self.kept) * min(accuracy - gap - min(value, accuracy), 0.0)


PREDICTED_GAP = "predicted_gap"  # a feature of loss heads alone: the accuracy gap that the predictor says


@dataclass(frozen=True)
class LossHead:
    """The loss gap (test minus train, nats): its log is linear in features, `PREDICTED_GAP` maybe one.

    Attributes:
        below, above: quantiles over held-out tasks of log actual minus log predicted, at the interval's level.
    """

    intercept: float
    features: tuple[Feature, ...]
    below: float
    above: float

    @property
    def prior(self) -> tuple[float, float, float]:
        """What is said while abstaining: the centre of the zoo, and an interval from zero on."""
        return math.exp(self.intercept), 0.0, math.exp(self.intercept + self.above)

    def predict(self, values: Mapping[str, float]) -> tuple[float, float, float] | None:
        """Loss gap with lower and upper end, or None where a feature is missing."""
        if any(not math.isfinite(values.get(f.name, math.nan)) for f in self.features):
            return None
        terms = (f.coefficient * (f.transformed(values[f.name]) - f.centre) for f in self.features)
        gap = math.exp(min(self.intercept + math.fsum(terms), 5.0))
        return gap, gap * math.exp(self.below), gap * math.exp(self.above)


@dataclass(frozen=True)
class Correction:
    """What the user's own observed gaps changed: (gap + offset) is multiplied, and the interval narrowed.

    Attributes:
        factor: 1 changes nothing; shrunken towards it the more, the fewer pairs there were.
        width: of the interval, over the width without.
        pairs: how many observed gaps.
    """

    factor: float
    width: float
    pairs: int


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of one model; gap, lower and upper in accuracy fractions.

    Attributes:
        loss_gap: test minus train loss in nats, with its interval; None without a loss head, or where
            a feature of it is missing; the zoo's centre while abstaining.
        in_support: every feature lies within the zoo's range.
        abstained: the gap is only the prior mean and the interval says nothing.
        outside: features beyond the zoo's range, features that are missing, and flags.
        contributions: accuracy fractions by feature, with `intercept`, `memoriser` and `limits`; they add up to `gap`.
    """

    gap: float
    lower: float
    upper: float
    in_support: bool
    abstained: bool
    outside: tuple[str, ...]
    contributions: dict[str, float]
    loss_gap: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Predictor:
    """A fitted log-linear predictor of the accuracy gap.

    Attributes:
        form: `product_of_powers` (the log of the gap is linear) or `additive` (the gap is).
        measures: the measures it needs, with their arguments.
        prior_gap: the mean gap in the zoo.
        scores: held-out scores as measured.
        provenance: recipe, table and its hash.
        loss_head: predicts the loss gap from the same measures.
        memoriser: the predicted test accuracy hardly falls below its.
        correction: from the user's own observed gaps, see `recalibrate`.
        preferred: predicts instead wherever all its features are measured, as `images_v2` on images; not in files.
    """

    name: str
    form: str
    measures: dict[str, dict[str, Any]]
    intercept: float
    features: tuple[Feature, ...]
    interval: Interval
    prior_gap: float
    provenance: dict[str, Any]
    scores: dict[str, Any]
    target: str = "accuracy_gap"
    unit: str = "fraction"
    license: str = "Apache-2.0"
    loss_head: LossHead | None = None
    memoriser: Memoriser | None = None
    correction: Correction | None = None
    preferred: Predictor | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of all features."""
        heads = () if self.loss_head is None else self.loss_head.features
        others = () if self.preferred is None else self.preferred.needs
        named = (f.name for f in (*self.features, *heads) if f.name != PREDICTED_GAP)
        memoriser = () if self.memoriser is None else (self.memoriser.name,)
        return tuple(dict.fromkeys((*named, *memoriser, *others)))

    def predict(self, values: Mapping[str, float], flags: Iterable[str] = ()) -> Prediction:
        """Predict the gap from measured values.

        Args:
            values: by key, without the `gengap/` prefix; `train_accuracy` and `classes` are always needed.
            flags: reasons for doubt that no feature shows (`augmented_probe`, `initial_weights`); each widens.

        Raises:
            PredictorError: `train_accuracy` or `classes` is missing.
        """
        for name in ("train_accuracy", "classes"):
            if name not in values:
                raise PredictorError(
                    f"predictor {self.name}",
                    got=f"values without {name!r}",
                    expected="at least train_accuracy and classes",
                    remedy="Pass the dictionary that measure() returns.",
                )
        if self.preferred is not None and all(math.isfinite(values.get(n, math.nan)) for n in self.preferred.needs):
            return replace(self.preferred, correction=self.correction).predict(values, flags)
        accuracy = values["train_accuracy"]
        needed = [f.name for f in self.features] + ([] if self.memoriser is None else [self.memoriser.name])
        missing = [name for name in needed if not math.isfinite(values.get(name, math.nan))]
        distances = {f.name: f.distance(values[f.name]) for f in self.features if f.name not in missing}
        beyond = [name for name, distance in distances.items() if distance > 0]
        doubts = tuple(flags)
        outside = (*missing, *beyond, *doubts)
        farthest = max(distances.values(), default=0.0)
        chance = 1 / values["classes"]
        if missing or farthest > 1 or accuracy < chance + 0.25 * (1 - chance):
            return self._abstention(accuracy, outside)
        terms = {f.name: f.coefficient * (f.transformed(values[f.name]) - f.centre) for f in self.features}
        raw, contributions = self._combined(terms)
        width = 1 + farthest + len(doubts)
        if self.memoriser is not None:
            contributions["memoriser"] = self.memoriser.raised(raw, accuracy, values[self.memoriser.name])
            raw += contributions["memoriser"]
        if self.correction is not None:
            contributions["recalibration"] = (self.correction.factor - 1) * (raw + self.interval.offset)
            raw += contributions["recalibration"]
            width *= self.correction.width
        gap = min(max(raw, 0.0), accuracy)
        contributions["limits"] = gap - math.fsum(contributions.values())
        width *= gap + self.interval.offset
        lower, upper = gap + self.interval.below * width, gap + self.interval.above * width
        return Prediction(
            gap,
            min(lower, gap),
            max(min(upper, accuracy), gap),
            not outside,
            False,
            outside,
            contributions,
            None if self.loss_head is None else self.loss_head.predict({**values, PREDICTED_GAP: gap}),
        )

    def _combined(self, terms: dict[str, float]) -> tuple[float, dict[str, float]]:
        """The unlimited gap and what each term adds to it.

        In the product form the logarithmic mean turns log contributions into shares of the gap without residue
        (the logarithmic mean Divisia decomposition).
        """
        if self.form == "additive":
            return self.intercept + math.fsum(terms.values()), {"intercept": self.intercept} | terms
        total = math.fsum(terms.values())
        base = math.exp(self.intercept)
        raw = math.exp(min(self.intercept + total, 5.0))
        mean = (raw - base) / total if abs(total) > 1e-12 else base
        return raw, {"intercept": base} | {name: mean * term for name, term in terms.items()}

    def _abstention(self, accuracy: float, outside: tuple[str, ...]) -> Prediction:
        gap = min(self.prior_gap, accuracy)
        contributions = {"intercept": self.prior_gap, "limits": gap - self.prior_gap}
        loss_gap = None if self.loss_head is None else self.loss_head.prior
        return Prediction(gap, 0.0, accuracy, False, True, outside, contributions, loss_gap)
