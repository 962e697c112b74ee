"""The predictor: one formula from measured values to a gap, its interval, abstention and contributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.evidence import posterior
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import (
    NORMAL_QUANTILE,
    PREDICTED_GAP,
    UNSCALED,
    Feature,
    FeatureGroup,
    Floats,
    Interval,
    LossHead,
    Scales,
    contributions,
    sampling_error,
)
from lightning_gengap.predictors.specification import Specification

ALWAYS_NEEDED = {"train_accuracy": 0.0, "classes": 1.0}  # and the least that they can be
FLAT_DEVIATION = 12**-0.5  # of an accuracy of which nothing is known: that of the uniform distribution
_SIZES = ("probe_samples", "train_samples")


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of one model.

    Attributes:
        gap, lower, upper: train minus test accuracy and its interval, as fractions.
        in_support: every feature lies within the range of the fitted rows.
        abstained: the gap is only the mean of the fitted rows, and the interval says nothing.
        outside: features that are missing, features beyond the fitted range, and flags.
        missing, too_far: why it abstains: features that are not measured, and those too far beyond the fitted range.
            Neither where `learned` alone is the reason.
        learned: whether the train accuracy is far enough above chance.
        deviation: the standard deviation of the predicted test accuracy, as far as that does not come from the sampling
            of the measured samples. While abstaining, that of a uniform distribution.
        contributions: accuracy fractions by feature, with `intercept`, components, `recalibration` and `limits`. They
            add up to `gap`.
        loss_gap: test minus train loss in nats, with its interval. None without a loss head, or where a feature of it
            is missing. While abstaining, the centre of the fitted rows.
    """

    gap: float
    lower: float
    upper: float
    in_support: bool
    abstained: bool
    outside: tuple[str, ...]
    contributions: dict[str, float]
    loss_gap: tuple[float, float, float] | None = None
    missing: tuple[str, ...] = ()
    too_far: tuple[str, ...] = ()
    learned: bool = True
    deviation: float = FLAT_DEVIATION


@dataclass(frozen=True)
class Predictions:
    """What a predictor says of many models: arrays with one entry a model, with the meaning of `Prediction`.

    Attributes:
        distances: by feature, how far outside the fitted range. See `Feature.distance`.
    """

    gap: Floats
    lower: Floats
    upper: Floats
    abstained: NDArray[np.bool_]
    distances: dict[str, Floats]
    contributions: dict[str, Floats]
    loss_gap: tuple[Floats, Floats, Floats] | None
    deviation: Floats


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor of the accuracy gap, which is linear in few transformed measured values.

    Load one with `load_predictor`, or fit one with `gengap zoo fit`.

    Attributes:
        groups: further measures, which add what they say where they are measured.
        prior_gap: the mean gap of the fitted rows.
        provenance: the table's hash, and how much was fitted.
        scores: those of `gengap zoo fit`, on held-out groups.
        loss_head: predicts the loss gap from the same measures.
        scales: of the deviation, where predictions are joined with other evidence.
        observed: of other models of the user's. See `recalibrate`.
        preferred: predicts instead wherever all its features are measured, as that of images does. It is not written
            to files.
    """

    name: str
    measures: tuple[str, ...]
    intercept: float
    features: tuple[Feature, ...]
    interval: Interval
    prior_gap: float
    specification: Specification
    provenance: dict[str, Any]
    scores: dict[str, Any]
    target: str = "accuracy_gap"
    groups: tuple[FeatureGroup, ...] = ()
    loss_head: LossHead | None = None
    scales: Scales = UNSCALED
    observed: tuple[Observation, ...] = ()
    preferred: Predictor | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The measured keys of all features, of the loss head and of the preferred predictor too."""
        heads = () if self.loss_head is None else self.loss_head.needs
        others = () if self.preferred is None else self.preferred.needs
        return tuple(dict.fromkeys((*self._of_gap, *heads, *others)))

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that it needs, and those of its groups and of the preferred predictor's."""
        groups = (*self.groups, *(() if self.preferred is None else self.preferred.groups))
        return tuple(dict.fromkeys((*self.needs, *(one.name for group in groups for one in group.features))))

    @property
    def _of_gap(self) -> tuple[str, ...]:
        components = (name for component in self.specification.components for name in component.needs)
        return (*(feature.name for feature in self.features), *components)

    def predict(self, values: Mapping[str, float], flags: Iterable[str] = ()) -> Prediction:
        """Predict the gap of one model from its measured values. It takes less than a millisecond.

        Args:
            values: by key, without the `gengap/` prefix, as `measure` returns them. `train_accuracy` and `classes` are
                always needed. Where a feature is missing, the predictor abstains. With `probe_samples` and
                `train_samples` the interval is wider where fewer samples were measured than in the fit; see
                `sampling_error`.
            flags: reasons for doubt that no feature shows (`augmented_probe`, `few_references`, `initial_weights`,
                `samples_interact`, `training_inputs`). Each of them widens the interval by its width.

        Raises:
            PredictorError: `train_accuracy` or `classes` is missing.

        Example:
            >>> from lightning_gengap import load_predictor
            >>> predictor = load_predictor("default_v3")
            >>> values = {"train_accuracy": 0.99, "train_loss": 0.05, "classes": 10.0, "train_samples": 2000.0}
            >>> values |= {"difficulty/ridge_extrapolated": 0.8, "difficulty/neighbour_1_accuracy": 0.7}
            >>> prediction = predictor.predict(values)
            >>> f"{prediction.lower:.2f} < {prediction.gap:.2f} < {prediction.upper:.2f}"
            '0.12 < 0.21 < 0.29'
            >>> prediction.in_support
            True
        """
        serving = self.serving(values)
        if serving is not self:
            return serving.predict(values, flags)
        doubts = tuple(flags)
        columns = {name: np.array([values.get(name, math.nan)]) for name in (*ALWAYS_NEEDED, *_SIZES, *self.reads)}
        of = self.predict_columns(columns, len(doubts))
        missing = [name for name in self._of_gap if not _is_measured(values, name)]
        beyond = [name for name, distance in of.distances.items() if distance[0] > 0 and name not in missing]
        outside, abstained = (*missing, *beyond, *doubts), bool(of.abstained[0])
        too_far = [name for name, distance in of.distances.items() if distance[0] > 1 and name not in missing]
        kept = ("intercept", "limits") if abstained else of.contributions
        loss = () if of.loss_gap is None else tuple(float(end[0]) for end in of.loss_gap)
        return Prediction(
            gap=float(of.gap[0]),
            lower=float(of.lower[0]),
            upper=float(of.upper[0]),
            in_support=not (outside or abstained),
            abstained=abstained,
            outside=outside,
            contributions={name: float(of.contributions[name][0]) for name in kept},
            loss_gap=(loss[0], loss[1], loss[2]) if loss and math.isfinite(loss[0]) else None,
            missing=tuple(missing),
            too_far=tuple(too_far),
            learned=bool(has_learned(columns["train_accuracy"], columns["classes"])[0]),
            deviation=float(of.deviation[0]),
        )

    def serving(self, values: Mapping[str, float]) -> Predictor:
        """The one that predicts from these values: the preferred one wherever all its features are measured."""
        if self.preferred is not None and all(_is_measured(values, name) for name in self.preferred.needs):
            return replace(self.preferred, observed=self.observed)
        return self

    def predict_columns(self, values: Mapping[str, Floats], doubts: int = 0) -> Predictions:
        """The formula: what `predict` says, for many models at once. `preferred` takes no part.

        The columns hold one value a model, NaN where it was not measured. `doubts` is the number of flags.
        """
        for name, least in ALWAYS_NEEDED.items():
            if name not in values or not (np.isfinite(values[name]) & (values[name] >= least)).all():
                raise PredictorError(
                    f"predictor {self.name}",
                    got=f"values without a finite {name!r} of at least {least:g}",
                    expected="at least train_accuracy, a fraction, and classes, their number",
                    remedy="Pass the dictionary that measure() returns.",
                )
        values = {name: np.where(np.isfinite(column), column, math.nan) for name, column in values.items()}
        accuracy = values["train_accuracy"]
        distances = {feature.name: feature.distance(values[feature.name]) for feature in self.features}
        farthest = np.max([np.zeros(len(accuracy)), *distances.values()], axis=0)
        missing = ~np.isfinite([np.zeros(len(accuracy)), *(values[name] for name in self._of_gap)]).all(axis=0)
        abstained = missing | (farthest > 1) | ~has_learned(accuracy, values["classes"])
        parts = {name: np.where(abstained, 0.0, part) for name, part in self.contributions(values, accuracy).items()}
        parts["intercept"] = np.where(abstained, self.prior_gap, self.intercept)
        gap = _limited(parts, accuracy)
        parts["limits"] = gap - _total(parts)
        width = (1 + np.where(abstained, 0.0, farthest) + doubts) * (gap + self.interval.offset)
        deviation = width * self.interval.half_width / NORMAL_QUANTILE
        if self.observed:
            moved, left = self.by_observed()
            parts["recalibration"] = np.where(abstained, 0.0, -moved * deviation)
            parts["limits"] = np.zeros(len(gap))
            gap = _limited(parts, accuracy)
            parts["limits"] = gap - _total(parts)
            width, deviation = left * width, left * deviation
        error = sampling_error(accuracy, *(values.get(name, np.full(len(gap), math.nan)) for name in _SIZES))
        lower = gap - np.hypot(np.minimum(self.interval.below * width, 0.0), error)
        upper = gap + np.hypot(np.maximum(self.interval.above * width, 0.0), error)
        upper = np.maximum(np.minimum(upper, accuracy), gap)
        loss = None
        if self.loss_head is not None:
            loss = self.loss_head.predict_columns({**values, PREDICTED_GAP: gap}, abstained)
        return Predictions(
            gap=gap,
            lower=np.where(abstained, 0.0, lower),
            upper=np.where(abstained, accuracy, upper),
            abstained=abstained,
            distances=distances,
            contributions=parts,
            loss_gap=loss,
            deviation=np.where(abstained, FLAT_DEVIATION, deviation),
        )

    def contributions(self, values: Mapping[str, Floats], accuracy: Floats) -> dict[str, Floats]:
        """What adds up to the gap before it is limited to [0, train accuracy]; a predictor that abstains has it too."""
        parts = {"intercept": np.full(len(accuracy), self.intercept), **contributions(self.features, values)}
        for group in self.groups:
            parts |= group.contributions(values)
        for component in self.specification.components:
            parts[component.kind] = component.adds(_total(parts), accuracy, values)
        return parts

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets that it was fitted on, those of the preferred predictor too, as far as its file says so."""
        others = () if self.preferred is None else self.preferred.sources
        return tuple(sorted({*self.provenance.get("sources", ()), *others}))

    def scale(self, kind: str | None, source: str | None = None) -> float:
        """What multiplies the deviation beside other evidence. See `Scales`.

        Args:
            kind: of data: `images`, `tables`, `texts`, or None where it is not known.
            source: the data set, where the user has named one; see `sources`.
        """
        if source in self.provenance.get("sources", ()):
            return self.scales.known
        seen = kind is not None and kind not in self.provenance.get("lacking", (kind,))
        return self.scales.kind if seen else self.scales.neither

    def by_observed(self) -> tuple[float, float]:
        """What the user's other models say of a new one: the mean in deviations, and the share of these that is left.

        They are taken as if observed at the same stage of training.
        """
        after = posterior([replace(one, epoch=1.0) for one in self.observed], [1.0], [1.0], self.scales.neither)
        return float(after.mean[0]), float(after.variance[0]) ** 0.5 / self.scales.neither

    def gaps(self, values: Mapping[str, Floats], accuracy: Floats) -> Floats:
        """The gaps in [0, train accuracy] without abstention."""
        return _limited(self.contributions(values, accuracy), accuracy)


def has_learned(accuracy: Floats, classes: Floats) -> NDArray[np.bool_]:
    """Whether train accuracy is a quarter of the way from chance to one; below that, predictors abstain."""
    chance = 1 / classes
    return accuracy >= chance + 0.25 * (1 - chance)


def _is_measured(values: Mapping[str, float], name: str) -> bool:
    return math.isfinite(values.get(name, math.nan))


def _limited(parts: Mapping[str, Floats], accuracy: Floats) -> Floats:
    return np.minimum(np.maximum(_total(parts), 0.0), accuracy)


def _total(parts: Mapping[str, Floats]) -> Floats:
    total: Floats = np.sum(list(parts.values()), axis=0)
    return total
