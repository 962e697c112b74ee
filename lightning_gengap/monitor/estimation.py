"""The estimate of one training: what is observed, what is given, and what is shown of both. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.predictors.choice import Best, Shown, best_of, highest
from lightning_gengap.predictors.comparison import Answers, Standing
from lightning_gengap.predictors.estimate import Estimate, estimate, expected, observed
from lightning_gengap.predictors.evidence import MOST_APART, deviations_apart
from lightning_gengap.predictors.observations import log_epochs

MOST = 128  # observations that are kept, and estimates: others are of epochs too near to these to say more


@dataclass(frozen=True)
class Observed:
    """An accuracy of the present weights on samples that are not trained on.

    Attributes:
        accuracy: a fraction.
        samples: how many there are.
        source: which.
        seconds: that it took.
        answers: which of the samples are classified right; None where that is not known.
    """

    accuracy: float
    samples: int
    source: str
    seconds: float = 0.0
    answers: Answers | None = None


def observe(found: Observed | None, state: RunState) -> None:
    """Remember an accuracy beside the prediction of the same weights. A later look at the same samples replaces it."""
    if found is None or state.prediction is None:
        return
    accuracy = state.values["train_accuracy"]
    new = observed(found.accuracy, found.samples, found.source, state.prediction, accuracy, state.epochs)
    others = [one for one in state.observations if (one.source, one.epoch) != (new.source, new.epoch)]
    others = [*others, new]
    if len(others) > MOST:
        del others[_nearest([(one.source, one.epoch) for one in others])]
    state.observations = others


def knows_more(found: Observed, state: RunState) -> bool:
    """Whether the present weights were observed on more samples of this source, of which these are a part."""
    now = (one for one in state.observations if (one.source, one.epoch) == (found.source, state.epochs))
    return any(one.samples > found.samples for one in now)


def stand(found: Observed | None, state: RunState) -> None:
    """Remember what later comparisons need of the present weights."""
    if state.prediction is None:
        return
    state.standing = Standing(
        predictor=state.serving,
        classes=int(state.values["classes"]),
        predicted=state.values["train_accuracy"] - state.prediction.gap,
        deviation=state.prediction.deviation,
        scale=state.scale,
        abstained=state.prediction.abstained,
        epoch=state.epochs,
        answers=None if found is None else found.answers,
    )


def show_estimate(state: RunState) -> None:
    """Show what the prediction of the present weights and all evidence say together."""
    if state.prediction is None:
        return
    accuracy, given = state.values["train_accuracy"], state.given
    curves = given.at_end if state.values.get("progress") == 1.0 else ()
    evidence = [
        *state.observations,
        *(replace(pair, epoch=state.epochs) for pair in given.pairs),  # as if they were at the same stage
        *(expected(curve, state.prediction, accuracy, state.epochs) for curve in curves),
    ]
    found = estimate(state.prediction, state.values, evidence, state.epochs, state.scale)
    _remember(found, state.prediction.deviation, state)
    for key, value in _shown(found).items():
        state.readout.add(key, value)
    apart = deviations_apart(evidence, state.scale)
    if max(apart, default=0.0) > MOST_APART:
        state.contradiction = (evidence[int(apart.argmax())], float(apart.max()))


def _remember(found: Estimate | None, deviation: float, state: RunState) -> None:
    """Keep this estimate, which a validation may yet replace, beside those of earlier epochs. The highest one stays."""
    shown = [one for one in state.shown if one.epoch != state.epochs]
    if found is not None:
        shown.append(Shown(state.epochs, found, deviation))
    if len(shown) > MOST:
        best = highest(shown)
        del shown[_nearest([("best" if one is best else "", one.epoch) for one in shown])]
    state.shown = shown


def _nearest(points: Sequence[tuple[str, float]]) -> int:
    """The place of the point that lies nearest to its neighbours of the same source, in the log of the epoch.

    The first and the last of each source are not asked, so that what remains is spread over the whole training.
    """
    logs = log_epochs([epoch for _, epoch in points])
    gaps = {0: math.inf}
    for source in {source for source, _ in points}:
        places = sorted((place for place, point in enumerate(points) if point[0] == source), key=lambda at: logs[at])
        for before, place, after in zip(places, places[1:], places[2:], strict=False):
            gaps[place] = float(logs[after] - logs[before])
    return min(gaps, key=lambda place: (gaps[place], place))


def best(state: RunState) -> Best | None:
    """The epoch with the highest estimate so far."""
    pairs = (replace(pair, epoch=state.epochs) for pair in state.given.pairs)
    return best_of(state.shown, [*state.observations, *pairs], state.scale)


def _shown(found: Estimate | None) -> dict[str, float]:
    if found is None:
        return {}
    return {
        "estimated_gap": found.gap,
        "estimated_gap_lower": found.lower,
        "estimated_gap_upper": found.upper,
        "estimated_test_accuracy": found.test_accuracy,
        "equivalent_hold_out": found.equivalent_hold_out,
    }
