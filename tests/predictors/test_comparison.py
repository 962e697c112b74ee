"""Two trainings compared: against draws of the joint Gaussian, a plain paired test, the prior, and symmetry."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from lightning_gengap.predictors.comparison import Answers, Contender, Right, Standing, compared, in_common, in_order
from lightning_gengap.predictors.likeness import ALIKE, REACH, STRETCH
from lightning_gengap.predictors.observations import HELD_OUT, SHARED, Kin, Observation, latest

DEVIATION = 0.05
KINDS: tuple[Kin, ...] = ("run", "recipe", "task")


def contender(predicted: float, right: Right | None = None, samples: str = "same", epoch: float = 10.0) -> Contender:
    """Weights with this prediction, and answers on held-out samples."""
    standing = Standing("tiny_v1", 4, predicted, DEVIATION, epoch=epoch)
    if right is None:
        return Contender(standing)
    seen = Observation(float(right.mean()), predicted, DEVIATION, len(right), epoch=epoch, source=HELD_OUT)
    return Contender(replace(standing, answers=Answers.of(samples, right)), (seen,))


def answers(both: int, one: int, other: int, neither: int) -> tuple[Right, Right]:
    """Of two networks, by how many samples each has right."""
    first = np.repeat([True, True, False, False], [both, one, other, neither])
    second = np.repeat([True, False, True, False], [both, one, other, neither])
    return first, second


def prior_of_difference(difference: float, same: Kin = "task") -> tuple[float, float]:
    """Mean and standard deviation of the difference of two accuracies, from the predictions alone."""
    reach = REACH * DEVIATION
    alike = ALIKE[same] * math.exp(-abs(difference) / reach)
    mean = difference + 2 * (STRETCH - 1) * reach * math.tanh(difference / 2 / reach)
    return mean, DEVIATION * math.sqrt(2 * (1 - alike))


@pytest.mark.parametrize("same", KINDS)
@pytest.mark.parametrize("difference", [0.01, 0.05, -0.2])
def test_without_evidence_it_is_the_prior(same: Kin, difference: float):
    found = compared(contender(0.7 + difference), contender(0.7, epoch=20.0), same)
    mean, deviation = prior_of_difference(difference, same)
    assert found.probability == pytest.approx(NormalDist().cdf(mean / deviation))
    assert found.difference == pytest.approx(mean)
    assert (found.upper - found.lower) / 2 == pytest.approx(1.6449 * deviation, rel=1e-4)


@pytest.mark.parametrize("paired", [True, False])
def test_it_is_the_joint_gaussian_of_which_draws_agree_with_what_was_seen(paired: bool):
    first, second = answers(120, 30, 20, 30)
    rng, count, said = np.random.default_rng(0), 1_000_000, (0.72, 0.69)
    mean, deviation = prior_of_difference(said[0] - said[1])
    alike = 1 - deviation**2 / DEVIATION**2 / 2
    common, own = rng.standard_normal(count), rng.standard_normal((2, count))
    missed = DEVIATION * (math.sqrt(alike) * common + math.sqrt(1 - alike) * own)
    moved = (mean - (said[0] - said[1])) / 2  # the predictions are stretched around their middle
    true = np.array([said[0] + moved, said[1] - moved])[:, None] + missed
    share = in_common(first, second) if paired else 0.0
    common, own = rng.standard_normal(count), rng.standard_normal((2, count))
    spread = np.sqrt([p * (1 - p) / 200 for p in (0.73, 0.70)])[:, None]
    observed = true + spread * (math.sqrt(share) * common + math.sqrt(1 - share) * own)
    near = (np.abs(observed - np.array([[first.mean()], [second.mean()]])) < 0.006).all(axis=0)
    kept = (true[0] - true[1])[near]
    assert len(kept) > 3000
    found = compared(contender(said[0], first), contender(said[1], second, "same" if paired else "others"))
    assert found.shared == (200 if paired else 0)
    assert found.probability == pytest.approx((kept > 0).mean(), abs=0.025)
    assert found.difference == pytest.approx(kept.mean(), abs=0.002)
    assert (found.lower, found.upper) == pytest.approx(np.quantile(kept, [0.05, 0.95]), abs=0.004)


@pytest.mark.parametrize("table", [(300, 40, 20, 40), (100, 30, 60, 210), (380, 12, 8, 0)])
def test_where_nothing_is_known_before_it_is_a_paired_test(table: tuple[int, int, int, int]):
    first, second = answers(*table)
    pair = [contender(0.5, right) for right in (first, second)]
    vague = [
        Contender(
            replace(one.standing, deviation=5.0, abstained=True),
            tuple(replace(seen, deviation=5.0) for seen in one.observations),
        )
        for one in pair
    ]
    better, worse, samples = table[1], table[2], sum(table)
    difference = (better - worse) / samples
    error = math.sqrt(better + worse - (better - worse) ** 2 / samples) / samples
    found = compared(*vague)
    assert found.difference == pytest.approx(difference, abs=0.002)
    assert found.probability == pytest.approx(NormalDist().cdf(difference / error), abs=0.02)


@pytest.mark.parametrize("same", KINDS)
def test_the_order_of_both_does_not_matter(same: Kin):
    first, second = answers(60, 15, 10, 15)
    one, other = contender(0.72, first), contender(0.75, second, epoch=20.0)
    found, turned = compared(one, other, same), compared(other, one, same)
    assert found.probability == pytest.approx(1 - turned.probability, abs=1e-9)
    assert (found.difference, found.lower, found.upper) == pytest.approx(
        (-turned.difference, -turned.upper, -turned.lower), abs=1e-9
    )


@pytest.mark.parametrize("same", KINDS)
@pytest.mark.parametrize("right", [None, answers(60, 15, 10, 15)[0]])
def test_nothing_is_better_than_itself(same: Kin, right: Right | None):
    one = contender(0.72, right)
    found = compared(one, one, same)
    assert found.probability == pytest.approx(0.5)
    assert found.difference == pytest.approx(0.0)
    assert found.lower <= 0 <= found.upper
    if same == "run":
        assert found.upper - found.lower < 1e-4


def test_the_same_samples_tell_more_the_more_both_agree_on_them():
    probabilities = []
    for table in ((140, 20, 10, 30), (110, 50, 40, 0)):
        first, second = answers(*table)
        for samples in ("same", "others"):
            probabilities.append(compared(contender(0.7, first), contender(0.7, second, samples)).probability)
    assert probabilities[0] > probabilities[1]  # paired, and not
    assert probabilities[0] > probabilities[2]  # fewer samples on which both differ
    assert probabilities[1] == pytest.approx(probabilities[3], abs=0.01)  # accuracies alone are compared


def test_many_samples_decide_and_few_hardly_matter():
    probabilities = []
    for size in (1, 10, 100, 10_000):
        first, second = answers(12 * size, 2 * size, 4 * size, 2 * size)
        probabilities.append(compared(contender(0.72, first), contender(0.7, second)).probability)
    assert compared(contender(0.72), contender(0.7)).probability > probabilities[0]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[-1] < 1e-6


def test_earlier_epochs_count_too():
    first, second = answers(60, 15, 10, 15)
    one, other = contender(0.7, first), contender(0.7, second)
    before = replace(one.observations[0], accuracy=0.9, predicted=0.7, epoch=5.0)
    more = Contender(one.standing, (before, *one.observations))
    assert compared(more, other).probability > compared(one, other).probability


def test_what_validations_saw_of_two_runs_is_of_other_samples():
    seen = Observation(0.75, 0.7, DEVIATION, 100, epoch=10.0, source="val_acc")
    apart = compared(Contender(contender(0.7).standing, (seen,)), contender(0.7))
    both = compared(Contender(contender(0.7).standing, (seen,)), Contender(contender(0.7).standing, (seen,)))
    assert apart.probability > 0.53
    assert both.probability == pytest.approx(0.5)
    assert both.upper - both.lower > 0.01


def test_an_abstention_is_known_by_its_samples_alone():
    first, second = answers(60, 15, 10, 15)
    one, other = contender(0.7, first), contender(0.7, second)
    blind = [
        Contender(
            replace(one.standing, predicted=predicted, deviation=0.2887, abstained=True),
            tuple(replace(seen, predicted=predicted, deviation=0.2887) for seen in one.observations),
        )
        for predicted in (0.6, 0.65)
    ]
    one_way, other_way = (compared(each, other).probability for each in blind)
    assert one_way == pytest.approx(other_way, abs=0.03)
    assert one_way > 0.5


def test_stated_probabilities_are_those_with_which_it_happens():
    rng, stated, happened = np.random.default_rng(0), [], []
    latent_of = {"hard": math.sqrt(0.65), "own": math.sqrt(0.35)}
    for _ in range(1500):
        predicted = 0.7 + 0.02 * rng.standard_normal(2)
        mean, deviation = prior_of_difference(float(predicted[0] - predicted[1]))
        difference = mean + deviation * rng.standard_normal()
        middle = predicted.mean() + DEVIATION * rng.standard_normal()
        true = np.clip([middle + difference / 2, middle - difference / 2], 0.05, 0.95)
        hard, own = rng.standard_normal(100), rng.standard_normal((2, 100))
        thresholds = np.array([NormalDist().inv_cdf(p) for p in true])[:, None]
        right = latent_of["hard"] * hard + latent_of["own"] * own < thresholds
        stated.append(compared(*(contender(float(p), r) for p, r in zip(predicted, right, strict=True))).probability)
        happened.append(difference > 0)
    said, was = np.array(stated), np.array(happened)
    for low, high in ((0.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0)):
        own = (said >= low) & (said <= high)
        assert own.sum() > 100
        assert was[own].mean() == pytest.approx(said[own].mean(), abs=4 * 0.5 / math.sqrt(own.sum()))


def test_what_answers_have_in_common_is_their_correlation():
    rng = np.random.default_rng(0)
    first = rng.random(20_000) < 0.7
    second = np.where(rng.random(20_000) < 0.6, first, rng.random(20_000) < 0.7)
    assert in_common(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-3)


@pytest.mark.parametrize(("table", "low", "high"), [((50, 0, 0, 0), 0.3, 0.7), ((49, 0, 0, 1), 0.5, 0.9)])
def test_few_samples_without_a_difference_are_no_certainty(table: tuple[int, int, int, int], low: float, high: float):
    assert low < in_common(*answers(*table)) < high


def test_answers_that_differ_more_than_by_chance_have_nothing_in_common():
    assert in_common(*answers(10, 20, 20, 10)) == 0.0


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
def test_answers_are_packed_and_found_again(count: int):
    right = np.random.default_rng(count).random(count) < 0.5
    kept = Answers.of("digest", right)
    assert len(kept.bits) == 2 * math.ceil(count / 8)
    assert kept.right().tolist() == right.tolist()


@pytest.mark.parametrize("bits", ["", "00" * 3, "no digits"])
def test_bits_of_other_samples_are_refused(bits: str):
    with pytest.raises(ValueError, match=r"answers|hexadecimal"):
        Answers("digest", 9, bits).right()


def test_two_epochs_of_one_run_are_compared_sample_by_sample_too():
    first, second = answers(160, 14, 6, 20)
    one, other = contender(0.7, first, epoch=10.0), contender(0.7, second, epoch=20.0)
    both = Contender(other.standing, (*one.observations, *other.observations))
    found = compared(one, both, "run")
    unpaired = compared(one, replace(both, standing=replace(other.standing, answers=None)), "run")
    assert in_common(first, second) > SHARED
    assert found.probability > unpaired.probability > 0.5


@pytest.mark.parametrize("same", KINDS)
@pytest.mark.parametrize("alike", [True, False])
def test_a_prediction_that_its_samples_contradict_does_not_decide(same: Kin, alike: bool):
    """Predictions of 0.9 and 0.6, or of 0.9 twice; right are 0.5 and 0.6 of 200 samples."""
    seen = [np.arange(200) < right for right in (100, 120)]
    first, second = (
        contender(said, right, samples, epoch)
        for said, right, samples, epoch in zip((0.9, 0.9 if alike else 0.6), seen, "ab", (10.0, 20.0), strict=True)
    )
    found, estimates = compared(first, second, same), [one.estimated()[0] for one in (first, second)]
    assert estimates[0] < estimates[1]
    assert found.probability < 0.2
    assert found.lower < -0.04
    if alike:  # no surer than the samples alone, which the predictions speak against
        assert found.probability > NormalDist().cdf((0.5 - 0.6) / math.sqrt((0.25 + 0.24) / 200))
    assert compared(second, first, same).probability == pytest.approx(1 - found.probability, abs=1e-9)


def test_weights_of_unknown_epochs_are_not_taken_for_those_of_one():
    unknown = [Contender(replace(contender(said).standing, epoch=None)) for said in (0.73, 0.7)]
    known = [contender(0.73), contender(0.7, epoch=20.0)]
    for first, second in (unknown, (unknown[0], known[1])):
        assert compared(first, second, "run") == compared(*known, "run")
    assert unknown[0].estimated() == known[0].estimated()


def test_an_interval_lies_within_what_accuracies_can_differ_by():
    every, none = np.full(10_000, True), np.full(10_000, False)
    found = compared(contender(1.0, every, "a"), contender(0.0, none, "b"))
    assert -1 <= found.lower <= found.difference <= found.upper <= 1


def test_of_each_source_the_last_observation_counts():
    right, _ = answers(60, 0, 0, 40)
    early, late, other = (
        Observation(accuracy, 0.7, DEVIATION, 100, epoch=epoch, source=source)
        for accuracy, epoch, source in ((0.2, 1.0, HELD_OUT), (0.6, 10.0, HELD_OUT), (0.65, 5.0, "val_acc"))
    )
    several = replace(contender(0.7, right), observations=(late, early, other))
    assert set(latest(several.observations)) == {late, other}
    one = replace(contender(0.7, right), observations=(late, other))
    # What the early one contradicts is doubted all the same, which is the same here for both predictions.
    assert compared(several, one).difference == pytest.approx(0.0, abs=1e-9)


def test_the_order_is_by_how_probably_each_is_better():
    first, second = answers(60, 5, 20, 15)
    three = [contender(0.70, first), contender(0.70, second), contender(0.99)]
    assert in_order(three) == [2, 1, 0]
    assert in_order(three[:1]) == [0]
    assert in_order([contender(0.7), contender(0.7)]) == [0, 1]
