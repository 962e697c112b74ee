"""What measured errors say of the law, against laws that are known and Bayes' rule written out."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_gengap.learning_curves.power_law import PowerLaws

SIZES = [125, 250, 500]
GUESS = 0.1


def law(
    size: float, asymptote: float = 0.05, at_500: float = 0.2, exponent: float = 0.5, guess: float = GUESS
) -> float:
    """The accuracy, by the definition."""
    chance = 1 - guess
    odds = (at_500 - asymptote) / (chance - at_500) * (size / 500) ** -exponent
    return 1 - (asymptote + chance * odds) / (1 + odds)


def of(accuracies: list[float], tested: int = 100_000, guess: float = GUESS) -> PowerLaws:
    return PowerLaws.of(SIZES[: len(accuracies)], accuracies, [tested] * len(accuracies), guess)


@pytest.mark.parametrize("asymptote", [0.0, 0.05, 0.15])
def test_a_usual_law_is_foretold_within_its_band(asymptote: float):
    laws = of([law(size, asymptote) for size in SIZES])
    for size in (1000, 2000, 4000):
        read = laws.at(size)
        assert read.lower < law(size, asymptote) < read.upper
        assert abs(read.accuracy - law(size, asymptote)) < 0.04
    assert laws.at(500).accuracy == pytest.approx(law(500, asymptote), abs=0.006)


def test_few_samples_that_teach_nothing_yet_do_not_hide_that_more_will():
    """Near chance the error hardly falls at first, whatever the exponent."""
    accuracies = [law(size, 0.05, 0.4, 0.7, guess=0.5) for size in SIZES]
    assert accuracies[1] - accuracies[0] < 0.05
    laws = of(accuracies, guess=0.5)
    read = laws.at(4000)
    assert read.lower < law(4000, 0.05, 0.4, 0.7, guess=0.5) < read.upper
    assert read.accuracy > accuracies[-1] + 0.08


def test_the_band_is_wider_farther_out_and_with_fewer_parts_or_test_samples():
    accuracies = [law(size) for size in SIZES]

    def width(laws: PowerLaws, size: float) -> float:
        return laws.at(size).upper - laws.at(size).lower

    assert width(of(accuracies), 1000) < width(of(accuracies), 4000)
    assert width(of(accuracies), 1000) < width(of(accuracies, tested=200), 1000)
    last = PowerLaws.of(SIZES[2:], accuracies[2:], [100_000], GUESS)
    assert width(of(accuracies), 2000) < width(last, 2000)


def test_noise_makes_no_law_that_falls():
    falls = of([0.80, 0.78, 0.81], tested=200)
    assert falls.at(4000).accuracy >= falls.at(500).accuracy
    one = PowerLaws.of([500], [0.8], [10_000], GUESS)
    assert 0.8 < one.at(2000).accuracy < 0.9


def test_no_accuracy_falls_below_chance_or_passes_the_bounds():
    laws = PowerLaws.of([500], [0.49], [300], 0.5)
    assert laws.at(20).accuracy >= 0.5
    perfect = of([1.0, 1.0, 1.0], tested=300).at(4000)
    assert 0.98 < perfect.accuracy <= perfect.upper <= 1.0
    assert 0 < perfect.deviation < 0.02


def test_the_order_of_the_parts_does_not_matter():
    sizes, accuracies, tested = [125, 500, 250], [0.7, 0.8, 0.76], [900, 500, 700]
    one, other = (PowerLaws.of(sizes[::step], accuracies[::step], tested[::step], GUESS) for step in (1, -1))
    assert one.at(2000) == other.at(2000)


def test_the_weights_are_those_of_bayes_rule():
    """The scores of three laws, written out."""
    laws = of([0.7, 0.76, 0.8], tested=500)
    assert laws.weights.sum() == pytest.approx(1)

    def score(place: int) -> float:
        total = -((laws.exponents[place] - 0.5) ** 2) / (2 * 0.3**2)
        for size, error in zip(SIZES, (0.3, 0.24, 0.2), strict=True):
            found = 1 - law(size, laws.asymptotes[place], laws.errors[place], laws.exponents[place])
            smoothed = (500 * error + 0.5) / 501
            total -= (found - error) ** 2 / (2 * (smoothed * (1 - smoothed) / 500 + 0.015**2))
        return float(total)

    best, *others = (int(place) for place in np.argsort(laws.weights)[[-1, -50, -2000]])
    for place in others:
        ratio = np.log(laws.weights[place] / laws.weights[best])
        assert ratio == pytest.approx(score(place) - score(best), abs=1e-6)
