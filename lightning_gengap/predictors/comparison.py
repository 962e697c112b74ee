"""Which of two trainings, or of two checkpoints of one, has the higher test accuracy. Numpy alone.

What both predictions miss is one Gaussian, as `likeness` says, and each run has its own observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.evidence import believed, conditioned, widened
from lightning_gengap.predictors.likeness import ALIKE, Points
from lightning_gengap.predictors.observations import (
    HELD_OUT,
    SHARED,
    Floats,
    Kin,
    Observation,
    latest,
    sampling_correlations,
)
from lightning_gengap.predictors.parts import NORMAL_QUANTILE

Right = NDArray[np.bool_]
ACROSS = 0.4  # of the sampling variance, by the same samples in two runs, where their answers are not known
_LEAST_DEVIATION = 1e-9  # so that weights can be compared with themselves


@dataclass(frozen=True)
class Answers:
    """Which held-out samples some weights classify right, in primitives.

    Attributes:
        samples: a digest of these samples and their labels, in order. Only equal ones are compared one by one.
        count: how many they are.
        bits: packed, eight samples a byte, in hexadecimal digits.
    """

    samples: str
    count: int
    bits: str

    @classmethod
    def of(cls, samples: str, right: Right) -> Answers:
        """Pack the answers."""
        return cls(samples, len(right), np.packbits(right).tobytes().hex())

    def right(self) -> Right:
        """Whether each sample is classified right.

        Raises:
            ValueError: the bits are not those of so many samples.
        """
        packed = np.frombuffer(bytes.fromhex(self.bits), np.uint8)
        if len(packed) != -(-self.count // 8):
            raise ValueError("too few or too many answers")
        return np.unpackbits(packed, count=self.count).astype(bool)


@dataclass(frozen=True)
class Standing:
    """What training data say of the test accuracy of some weights, and which held-out samples these have right.

    Attributes:
        predictor: its name.
        classes: how many there are.
        predicted: test accuracy.
        deviation: its standard deviation. See `Prediction`.
        scale: multiplies all deviations. See `Scales`.
        abstained: whether the predictor abstains.
        epoch: how many epochs had been trained; None where that is not known, as of values alone.
        answers: on held-out samples; None where there are none.
    """

    predictor: str
    classes: int
    predicted: float
    deviation: float
    scale: float = 1.0
    abstained: bool = False
    epoch: float | None = 1.0
    answers: Answers | None = None


@dataclass(frozen=True)
class Contender:
    """Weights that are compared, and what was observed in their training."""

    standing: Standing
    observations: tuple[Observation, ...] = ()

    def estimated(self) -> tuple[float, float]:
        """Its test accuracy by the prediction and its own observations, and the standard deviation of that."""
        own = self.standing
        epoch = 1.0 if own.epoch is None else own.epoch  # where it is not known, nothing was observed
        after = believed(self.observations, epoch, own.deviation, own.scale)
        return min(max(own.predicted + float(after.mean[0]), 0.0), 1.0), float(after.variance[0]) ** 0.5


@dataclass(frozen=True)
class Comparison:
    """Two trainings compared.

    Attributes:
        probability: that the first has the higher test accuracy.
        difference: test accuracy of the first minus that of the second, as it is expected.
        lower, upper: its interval of 90 %.
        shared: on how many held-out samples both were compared one by one.
    """

    probability: float
    difference: float
    lower: float
    upper: float
    shared: int = 0


def compared(first: Contender, second: Contender, same: Kin = "task") -> Comparison:
    """How probable it is that the first has the higher test accuracy, and by how much.

    Of each source of samples the last observation counts. Earlier epochs err like the last one on the same samples, and
    tell more of the level than of a difference. Where both have answers on the same held-out samples, the errors of
    both accuracies share what the answers have in common: the pair is compared sample by sample. Where observations
    contradict one prediction, both are doubted as much as that one is in an estimate.

    Args:
        first: of the two.
        second: predicted by the same predictor.
        same: what both have in common. `run`: they are two epochs of one training. `recipe`: network, augmentation
            and optimizer are the same, and so is the data set. `task`: the data set is.

    Example:
        >>> first, second = (Contender(Standing("a", 10, accuracy, deviation=0.04)) for accuracy in (0.83, 0.80))
        >>> round(compared(first, second).probability, 2), round(compared(second, first).probability, 2)
        (0.91, 0.09)
    """
    pair = (first, second)
    seen = [one for contender in pair for one in latest(contender.observations)]
    run = [place for place, contender in enumerate(pair) for _ in latest(contender.observations)]
    if same == "run":
        seen = list({(one.source, one.epoch): one for one in seen}.values())
        run = [0] * len(seen)
    own = [contender.standing.scale for contender in pair]
    doubt = max(widened(contender.observations, scale) / scale for contender, scale in zip(pair, own, strict=True))
    scales = [doubt * scale for scale in own]  # what the predictor misses in this task it misses in both
    if same == "run":
        scales = [max(scales)] * 2
    points = _points(pair, seen, run, same, scales)
    knows_both = not any(one.standing.abstained for one in pair)
    predicted = points.stretched() if knows_both else points.predicted
    prior = points.covariance(ALIKE[same] if knows_both else 0.0)
    seen = [replace(one, predicted=float(said)) for one, said in zip(seen, predicted, strict=False)]
    alike, shared = _sampling(pair, seen, run, same)
    mean, covariance = conditioned(prior, seen, alike)
    signs = np.array([1.0, -1.0])
    difference = float(signs @ (predicted[-2:] + mean))
    deviation = max(float(signs @ covariance @ signs), 0.0) ** 0.5
    half = NORMAL_QUANTILE * deviation
    middle, lower, upper = (min(max(end, -1.0), 1.0) for end in (difference, difference - half, difference + half))
    probability = NormalDist().cdf(difference / max(deviation, _LEAST_DEVIATION))
    return Comparison(probability, middle, lower, upper, shared)


def in_order(contenders: Sequence[Contender], same: Kin = "task") -> list[int]:
    """The places of the contenders, best first: by how probably each is better than each of the others, on average."""
    better = np.zeros(len(contenders))
    for place, one in enumerate(contenders):
        for other in range(place):
            probability = compared(one, contenders[other], same).probability
            better[place] += probability
            better[other] += 1 - probability
    return np.argsort(-better, kind="stable").tolist()


def _points(
    pair: Sequence[Contender], seen: Sequence[Observation], run: Sequence[int], same: Kin, scales: Sequence[float]
) -> Points:
    """All observations, then both contenders; `scales` multiply the deviations of each."""
    runs = [*run, 0, 0 if same == "run" else 1]
    listed: list[Observation | Standing] = [*seen, *(contender.standing for contender in pair)]
    return Points.of(
        predicted=[one.predicted for one in listed],
        deviations=[scales[of] * one.deviation for one, of in zip(listed, runs, strict=True)],
        epochs=[math.nan if one.epoch is None else one.epoch for one in listed],
        runs=runs,
    )


def _sampling(
    pair: Sequence[Contender], seen: Sequence[Observation], run: Sequence[int], same: Kin
) -> tuple[Floats, int]:
    """How the sampling errors of the observations are correlated, and how many samples are compared one by one."""
    first, second = (contender.standing.answers for contender in pair)
    alike = sampling_correlations([f"{of} {one.source}" for one, of in zip(seen, run, strict=True)])
    if first is None or second is None or first.samples != second.samples:
        return alike, 0
    share = in_common(first.right(), second.right())
    runs, held_out = np.array(run), np.array([one.source == HELD_OUT for one in seen])
    across = held_out[:, None] & held_out & (runs[:, None] != runs)
    alike[across] = max(ACROSS, share - SHARED)  # less would be the correlations of no accuracies
    of_first = _place(pair[0].standing.epoch, first, seen, run, 0)
    of_second = _place(pair[1].standing.epoch, second, seen, run, 0 if same == "run" else 1)
    if of_first is None or of_second is None:
        return alike, 0
    if of_first != of_second:
        alike[[of_first, of_second], [of_second, of_first]] = share
    return alike, first.count


def _place(
    epoch: float | None, answers: Answers, seen: Sequence[Observation], run: Sequence[int], own: int
) -> int | None:
    """Which observation is the accuracy of these answers at this epoch of the run."""
    wanted = (own, HELD_OUT, epoch, answers.count)
    found = [(of, one.source, one.epoch, one.samples) for one, of in zip(seen, run, strict=True)]
    return found.index(wanted) if wanted in found else None


def in_common(first: Right, second: Right) -> float:
    """The correlation of two accuracies on the same samples: of being right, between the samples' answers.

    Half a sample is added to each of the four cells (both right, one, the other, neither), so that few samples on which
    both agree are not taken for certainty. It is 0 at least.
    """
    both, one, other, neither = (
        float(np.sum(cell)) + 0.5 for cell in (first & second, first & ~second, ~first & second, ~first & ~second)
    )
    spread = (both + one) * (other + neither) * (both + other) * (one + neither)
    return max((both * neither - one * other) / spread**0.5, 0.0)
