"""The estimate of one training: what is observed, what is given, and what is shown of both. No Lightning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.predictors.choice import Best, Shown, best_of
from lightning_gengap.predictors.comparison import Answers, Standing
from lightning_gengap.predictors.estimate import Estimate, estimate, expected, observed
from lightning_gengap.predictors.evidence import MOST_APART, deviations_apart

MOST = 256  # observations that are kept: older ones say nothing of an epoch that these do not


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
    state.observations = [*others, new][-MOST:]


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
    _remember(found, state)
    for key, value in _shown(found).items():
        state.readout.add(key, value)
    apart = deviations_apart(evidence, state.scale)
    if max(apart, default=0.0) > MOST_APART:
        state.contradiction = (evidence[int(apart.argmax())], float(apart.max()))


def _remember(found: Estimate | None, state: RunState) -> None:
    """Keep the highest estimate of earlier epochs, and this one, which a validation may yet replace."""
    earlier = [one for one in state.shown if one.epoch != state.epochs]
    now = [] if found is None else [Shown(state.epochs, found)]
    state.shown = [*sorted(earlier, key=lambda one: -one.estimate.test_accuracy)[:1], *now]


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
