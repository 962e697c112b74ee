"""The posterior of a run's residuals: against a joint Gaussian written out by hand, its limits, and simulated runs."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from lightning_gengap.predictors.evidence import LENGTH, deviations_apart, equivalent_hold_out, posterior, widened
from lightning_gengap.predictors.observations import CORRELATIONS, SHARED, Observation, correlations, noise

EPOCHS = (1.0, 4.0, 20.0)
SEEN = Observation(accuracy=0.7, predicted=0.8, deviation=0.05, samples=100, epoch=10.0, source="val")


def written_out(observations: list[Observation], epoch: float, deviation: float, scale: float) -> tuple[float, float]:
    """Mean and variance of the residual at one epoch, entry by entry, with the sampling variances of the posterior."""
    count = len(observations)
    joint = np.zeros((count + 1, count + 1))
    points = [(one.epoch, one.deviation, one.kin) for one in observations] + [(epoch, deviation, "run")]
    for i, (t, d, kin) in enumerate(points):
        for j, (u, e, other) in enumerate(points):
            if i == j or (kin == other == "run"):
                alike = 1.0
            elif "task" in (kin, other):
                alike = CORRELATIONS["task"]
            else:
                alike = CORRELATIONS["recipe"]
            joint[i, j] = alike * scale**2 * d * e * math.exp(-abs(math.log(t) - math.log(u)) / LENGTH)
    given = joint[:count, :count]
    means = [(one.accuracy * one.samples + 0.5) / (one.samples + 1) for one in observations]
    for _ in range(4):
        noisy = given.copy()
        for i, one in enumerate(observations):
            end = 0.5 / (one.samples + 1)
            p = min(max(means[i], end), 1 - end)
            for j, other in enumerate(observations):
                q_end = 0.5 / (other.samples + 1)
                q = min(max(means[j], q_end), 1 - q_end)
                root = math.sqrt(p * (1 - p) / one.samples * q * (1 - q) / other.samples)
                same = one.kin == other.kin == "run" and one.source == other.source
                noisy[i, j] += root if i == j else SHARED * root if same else 0.0
        inverse = np.linalg.inv(noisy)
        residual = np.array([one.accuracy - one.predicted for one in observations])
        means = [one.predicted + (given @ inverse @ residual)[i] for i, one in enumerate(observations)]
    across = joint[:count, count]
    return float(across @ inverse @ residual), float(joint[count, count] - across @ inverse @ across)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_it_is_the_joint_gaussian_conditioned_on_what_was_seen(scale: float):
    seen = [
        replace(SEEN, epoch=1.0, accuracy=0.5, predicted=0.45),
        SEEN,
        replace(SEEN, epoch=12.0, accuracy=1.0, samples=20, source="held_out"),
        replace(SEEN, kin="recipe", accuracy=0.75, epoch=3.0),
        replace(SEEN, kin="recipe", accuracy=0.78, epoch=3.0),
        replace(SEEN, kin="task", accuracy=0.6, deviation=0.1),
    ]
    found = posterior(seen, EPOCHS, [0.04, 0.05, 0.06], scale)
    for place, (epoch, deviation) in enumerate(zip(EPOCHS, [0.04, 0.05, 0.06], strict=True)):
        mean, variance = written_out(seen, epoch, deviation, widened(seen, scale))
        assert found.mean[place] == pytest.approx(mean, abs=1e-8)
        assert found.variance[place] == pytest.approx(variance, abs=1e-8)


def test_without_evidence_it_is_the_prior():
    found = posterior([], EPOCHS, [0.04, 0.05, 0.06], scale=2.0)
    assert found.mean.tolist() == [0.0] * 3
    assert np.sqrt(found.variance) == pytest.approx([0.08, 0.10, 0.12])


def test_many_samples_give_the_observation_itself():
    found = posterior([replace(SEEN, samples=10**9)], [SEEN.epoch], [SEEN.deviation])
    assert found.mean[0] == pytest.approx(-0.1, abs=1e-4)
    assert found.variance[0] < 1e-8


def test_an_error_without_bound_gives_the_prior():
    found = posterior([replace(SEEN, error=1e6)], [SEEN.epoch], [SEEN.deviation])
    assert found.mean[0] == pytest.approx(0.0, abs=1e-9)
    assert found.variance[0] == pytest.approx(SEEN.deviation**2)


def test_one_sample_says_next_to_nothing():
    found = posterior([replace(SEEN, samples=1, accuracy=1.0)], [SEEN.epoch], [SEEN.deviation])
    assert abs(found.mean[0]) < 0.005
    assert found.variance[0] > 0.95 * SEEN.deviation**2


def test_the_same_samples_twice_say_less_than_two_independent_ones():
    again = replace(SEEN, epoch=SEEN.epoch * 1.001)
    same, apart, once = (
        posterior(seen, [SEEN.epoch], [SEEN.deviation]).variance[0]
        for seen in ([SEEN, again], [SEEN, replace(again, source="others")], [SEEN])
    )
    assert apart < same < once


def test_what_lies_far_in_time_says_nothing():
    variances = posterior([SEEN], [10.0, 20.0, 1e4], [SEEN.deviation] * 3).variance
    assert variances[0] < variances[1] < variances[2]
    assert variances[2] == pytest.approx(SEEN.deviation**2, rel=1e-3)


def test_the_order_of_the_observations_does_not_matter():
    seen = [SEEN, replace(SEEN, epoch=2.0, accuracy=0.6), replace(SEEN, kin="task"), replace(SEEN, source="others")]
    one, other = posterior(seen, EPOCHS, [0.05] * 3), posterior(seen[::-1], EPOCHS, [0.05] * 3)
    assert one.mean == pytest.approx(other.mean, abs=1e-12)
    assert one.variance == pytest.approx(other.variance, abs=1e-12)


def test_another_run_says_less_than_this_one_and_its_recipe_more_than_its_task():
    variances = [posterior([replace(SEEN, kin=kin)], [10.0], [0.05]).variance[0] for kin in ("run", "recipe", "task")]
    assert variances[0] < variances[1] < variances[2] < 0.05**2


def test_the_correlations_of_any_runs_are_those_of_some_gaussian():
    kins = ["run", "run", "recipe", "recipe", "task", "task", "recipe"]
    assert np.linalg.eigvalsh(correlations(kins)).min() > -1e-12


def test_a_perfect_score_on_few_samples_still_has_a_sampling_error():
    perfect = noise([replace(SEEN, accuracy=1.0, samples=50)], np.array([1.0]))
    assert perfect[0, 0] == pytest.approx((50.5 / 51) * (0.5 / 51) / 50)


def test_an_estimate_of_no_samples_has_its_error_alone():
    assert noise([replace(SEEN, samples=0, error=0.02)], np.array([0.7]))[0, 0] == pytest.approx(0.0004)


@pytest.mark.parametrize("samples", [50, 200])
def test_intervals_cover_as_they_say_where_the_scale_is_right(samples: int):
    # Runs from the prior; of each held-out sample, half of the variance is the sample's own in all epochs.
    rng = np.random.default_rng(0)
    epochs, predicted, deviation, runs = np.array([2.0, 4.0, 8.0, 16.0]), 0.75, 0.05, 1500
    times = np.log(epochs)
    cholesky = np.linalg.cholesky(deviation**2 * np.exp(-np.abs(times[:, None] - times) / LENGTH))
    covered = 0
    for _ in range(runs):
        actual = predicted + cholesky @ rng.standard_normal(4)
        seen = _scored(actual, samples, rng)
        observations = [
            Observation(float(a), predicted, deviation, samples, epoch=float(e), source="held_out")
            for a, e in zip(seen, epochs, strict=True)
        ]
        found = posterior(observations, epochs[-1:], [deviation])
        missed = abs(actual[-1] - predicted - found.mean[0])
        covered += missed <= 1.6449 * math.sqrt(found.variance[0])
    assert 0.87 < covered / runs < 0.93


def _scored(actual: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Accuracies of these samples at each epoch, whose correctness is correlated by about a half."""
    own, common = rng.standard_normal((len(actual), samples)), rng.standard_normal(samples)
    thresholds = np.array([_normal_quantile(p) for p in actual])
    latent = math.sqrt(0.7) * common + math.sqrt(0.3) * own
    return (latent < thresholds[:, None]).mean(axis=1)


def _normal_quantile(p: float) -> float:
    return NormalDist().inv_cdf(min(max(p, 1e-6), 1 - 1e-6))


@pytest.mark.parametrize(("predicted", "accuracy", "samples"), [(0.9, 0.5, 200), (0.59, 0.91, 100), (0.875, 1.0, 200)])
def test_where_evidence_contradicts_the_prediction_it_is_believed(predicted: float, accuracy: float, samples: int):
    seen = replace(SEEN, predicted=predicted, accuracy=accuracy, deviation=0.03, samples=samples)
    found = posterior([seen], [SEEN.epoch], [0.03])
    test, half = predicted + found.mean[0], 1.6449 * math.sqrt(found.variance[0])
    assert deviations_apart([seen])[0] > 3
    assert abs(test - accuracy) < half < 0.07


def test_the_prediction_is_doubted_from_three_deviations_on():
    near, far = replace(SEEN, samples=0, accuracy=0.66), replace(SEEN, samples=0, accuracy=0.60)
    assert widened([], 1.7) == widened([near], 1.7) == 1.7
    assert widened([far], 1.0) == pytest.approx(4 / 3)
    assert deviations_apart([far], widened([near, far], 1.0)) == pytest.approx([3.0])


def test_what_other_runs_contradict_is_doubted_too():
    pair = replace(SEEN, accuracy=0.4, samples=10**6, kin="recipe")
    assert posterior([pair], [SEEN.epoch], [0.05]).variance[0] > 0.05**2 * (1 - 0.9**2) * 7


def test_it_is_worth_the_prior_and_the_samples_together():
    prior = equivalent_hold_out(0.8, 0.05**2)
    assert prior == pytest.approx(64)
    seen = replace(SEEN, accuracy=0.8, samples=100)
    after = posterior([seen], [10.0], [0.05])
    assert equivalent_hold_out(0.8, float(after.variance[0])) == pytest.approx(prior + 100, rel=1e-3)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_it_is_worth_something_finite_at_the_ends(accuracy: float):
    assert 0 < equivalent_hold_out(accuracy, 0.03**2) < 100
    assert math.isfinite(equivalent_hold_out(accuracy, 0.0))
