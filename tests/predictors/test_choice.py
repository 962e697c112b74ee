"""The chosen epoch: what its choice flatters, against a simulation that knows only the posterior, and its interval."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.predictors.choice import Shown, best_of, optimism
from lightning_gengap.predictors.estimate import Estimate
from lightning_gengap.predictors.evidence import equivalent_hold_out, posterior
from lightning_gengap.predictors.observations import SHARED, Observation

EPOCHS = (1.0, 2.0, 4.0, 8.0, 16.0)
TRAIN = 0.95


def seen(accuracies: tuple[float, ...], samples: int = 100) -> list[Observation]:
    """A run in which 0.7 is predicted of every epoch."""
    pairs = zip(accuracies, EPOCHS, strict=False)
    return [Observation(one, 0.7, 0.05, samples, epoch=epoch, source="held_out") for one, epoch in pairs]


def estimated(observations: list[Observation]) -> list[float]:
    """The estimate of each epoch from what was known then."""
    found = []
    for place, one in enumerate(observations):
        after = posterior(observations[: place + 1], [one.epoch], [one.deviation])
        found.append(min(max(one.predicted + float(after.mean[0]), 0.0), 1.0))
    return found


def every_epoch(observations: list[Observation]) -> list[Shown]:
    """The estimates of all epochs, also of those without an observation."""
    found = []
    for epoch in EPOCHS:
        after = posterior([one for one in observations if one.epoch <= epoch], [epoch], [0.05])
        found.append(Shown(epoch, an_estimate(min(max(0.7 + float(after.mean[0]), 0.0), 1.0)), 0.05))
    return found


def simulated(observations: list[Observation], draws: int) -> np.ndarray:
    """The luck of the chosen epoch, of many runs whose true accuracies are the estimates of this one."""
    rng, true = np.random.default_rng(1), np.array(estimated(observations))
    samples = observations[0].samples
    luck = []
    for _ in range(draws):
        error = math.sqrt(SHARED) * rng.standard_normal() + math.sqrt(1 - SHARED) * rng.standard_normal(len(true))
        again = np.clip(true + np.sqrt(true * (1 - true) / samples) * error, 0, 1)
        made = estimated([replace(one, accuracy=float(at)) for one, at in zip(observations, again, strict=True)])
        luck.append(max(made) - true[int(np.argmax(made))])
    return np.array(luck)


@pytest.mark.parametrize("accuracies", [(0.7,) * 5, (0.6, 0.66, 0.7, 0.72, 0.71)])
def test_the_optimism_is_that_of_runs_whose_truth_is_what_was_estimated(accuracies: tuple[float, ...]):
    luck = simulated(seen(accuracies), draws=1500)
    found = optimism(seen(accuracies))
    # Four standard errors of both simulations, and a tenth for the spread of each draw, which is kept fixed here.
    assert found == pytest.approx(luck.mean(), abs=4 * luck.std() * math.sqrt(1 / 1500 + 1 / 512) + 0.1 * luck.mean())
    assert luck.mean() > 4 * luck.std() / math.sqrt(1500)


@pytest.mark.parametrize("validated", [(4.0,), (2.0, 8.0)])
def test_epochs_without_a_validation_are_chosen_by_its_luck_as_well(validated: tuple[float, ...]):
    pairs = zip((0.74, 0.71), validated, strict=False)
    observations = [Observation(one, 0.7, 0.05, 100, epoch=epoch, source="val_acc") for one, epoch in pairs]
    rng, luck = np.random.default_rng(1), []
    true = [one.estimate.test_accuracy for one in every_epoch(observations)]
    at = np.array([true[EPOCHS.index(epoch)] for epoch in validated])
    for _ in range(1500):
        shared = rng.standard_normal()
        errors = math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * rng.standard_normal(len(validated))
        again = at + np.sqrt(at * (1 - at) / 100) * errors
        drawn = [replace(one, accuracy=float(new)) for one, new in zip(observations, again, strict=True)]
        made = [one.estimate.test_accuracy for one in every_epoch(drawn)]
        luck.append(max(made) - true[int(np.argmax(made))])
    found, mean = optimism(observations, shown=every_epoch(observations)), float(np.mean(luck))
    assert found == pytest.approx(mean, abs=4 * float(np.std(luck)) * math.sqrt(1 / 1500 + 1 / 512) + 0.1 * mean)
    assert mean > 4 * float(np.std(luck)) / math.sqrt(1500)


def test_epochs_that_a_checkpoint_cannot_tell_apart_are_equal():
    shown = [Shown(epoch, an_estimate(test), 0.05) for epoch, test in ((3.0, 0.8), (9.0, 0.8 + 1e-10))]
    assert np.float32(0.8) == np.float32(0.8 + 1e-10)
    found = best_of(shown, [])
    assert found is not None
    assert found.epoch == 3.0


def test_one_epoch_is_no_choice_and_predictions_have_no_luck():
    assert optimism([]) == optimism(seen((0.7,))) == 0.0
    two_sources = [*seen((0.7,)), replace(seen((0.8,))[0], source="val_acc")]
    assert optimism(two_sources) == 0.0
    only_others = [replace(one, kin="task") for one in seen((0.7, 0.6, 0.8))]
    assert optimism(only_others) == 0.0


def test_more_samples_leave_less_to_luck_and_other_models_hardly_matter():
    few, many = (optimism(seen((0.7, 0.71, 0.7, 0.69, 0.7), samples)) for samples in (50, 5000))
    assert many < few / 3
    other = Observation(0.7, 0.7, 0.05, 1000, kin="recipe")
    assert 0 < optimism([*seen((0.7, 0.71, 0.7)), other]) < 1.1 * optimism(seen((0.7, 0.71, 0.7)))


def test_the_order_in_which_epochs_were_seen_does_not_matter():
    made = seen((0.6, 0.66, 0.7, 0.72, 0.71))
    assert optimism(made[::-1]) == optimism(made)


def test_a_single_epoch_decides_nothing_but_the_highest_is_kept():
    shown = [Shown(epoch, an_estimate(test), 0.05) for epoch, test in ((1.0, 0.6), (2.0, 0.8), (4.0, 0.8), (8.0, 0.7))]
    found = best_of(shown, [])
    assert found is not None
    assert (found.epoch, found.test_accuracy, found.optimism) == (2.0, 0.8, 0.0)
    assert (found.gap, found.lower, found.upper) == pytest.approx((0.15, 0.10, 0.21))
    assert found.equivalent_hold_out == shown[1].estimate.equivalent_hold_out
    assert best_of([], seen((0.7, 0.8))) is None


def test_the_choice_widens_the_interval_as_a_further_error():
    observations = seen((0.7, 0.71, 0.7))
    shown = [Shown(4.0, an_estimate(0.71), 0.05)]
    lucky = optimism(observations, shown=shown)
    found = best_of(shown, observations)
    assert found is not None
    assert found.optimism == lucky > 0
    assert found.gap - found.lower == pytest.approx(math.hypot(0.05, 1.6448536 * lucky))
    assert found.upper - found.gap == pytest.approx(math.hypot(0.06, 1.6448536 * lucky))
    before = shown[0].estimate.equivalent_hold_out
    assert found.equivalent_hold_out == pytest.approx(equivalent_hold_out(0.71, 0.71 * 0.29 / before + lucky**2))
    assert found.equivalent_hold_out < before
    # An interval never leaves what is possible.
    sure = best_of([Shown(4.0, an_estimate(0.999), 0.05)], seen((0.99, 1.0, 0.98), 20))
    assert sure is not None
    assert sure.lower >= TRAIN - 1
    assert sure.upper <= TRAIN


def an_estimate(test: float) -> Estimate:
    gap = TRAIN - test
    return Estimate(gap, max(gap - 0.05, TRAIN - 1), min(gap + 0.06, TRAIN), test, 120.0)
