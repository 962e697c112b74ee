"""What measured errors say of the law, against laws that are known and a sum over a coarser grid by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_gengap.learning_curves.power_law import EXPONENT, PowerLaws

SIZES = [125, 250, 500]


def law(size: float, asymptote: float = 0.05, factor: float = 2.0, exponent: float = 0.5) -> float:
    return 1 - asymptote - factor * size**-exponent


def of(accuracies: list[float], tested: int = 100_000, chance: float = 0.1) -> PowerLaws:
    return PowerLaws.of(SIZES[: len(accuracies)], accuracies, [tested] * len(accuracies), chance)


@pytest.mark.parametrize("asymptote", [0.0, 0.05, 0.2])
def test_a_usual_law_is_foretold_within_its_band(asymptote: float):
    laws = of([law(size, asymptote) for size in SIZES])
    for size in (1000, 2000, 4000):
        read = laws.at(size)
        assert read.lower < law(size, asymptote) < read.upper
        assert abs(read.accuracy - law(size, asymptote)) < 0.02
    assert laws.at(500).accuracy == pytest.approx(law(500, asymptote), abs=0.005)


def test_the_band_is_wider_farther_out_and_with_fewer_parts_or_test_samples():
    accuracies = [law(size) for size in SIZES]

    def width(laws: PowerLaws, size: float) -> float:
        return laws.at(size).upper - laws.at(size).lower

    assert width(of(accuracies), 1000) < width(of(accuracies), 4000)
    assert width(of(accuracies), 1000) < width(of(accuracies, tested=200), 1000)
    last = PowerLaws.of(SIZES[2:], accuracies[2:], [100_000], 0.1)
    assert width(of(accuracies), 2000) < width(last, 2000)


def test_the_prior_decides_where_errors_say_nothing():
    alone = PowerLaws.of([500], [0.8], [10_000], 0.1)
    assert alone.exponent == pytest.approx(EXPONENT, abs=0.05)
    rising = of([0.80, 0.78, 0.81], tested=200)  # noise, of which a straight line would make a fall
    assert rising.at(4000).accuracy >= rising.at(500).accuracy


def test_no_accuracy_falls_below_chance_or_passes_the_bounds():
    laws = PowerLaws.of([500], [0.52], [300], 0.5)
    assert laws.at(20).accuracy >= 0.5 - 1e-9
    perfect = of([1.0, 1.0, 1.0], tested=300).at(4000)
    assert 0.98 < perfect.accuracy <= perfect.upper <= 1.0
    assert 0 < perfect.deviation < 0.02


def test_the_order_of_the_parts_does_not_matter():
    sizes, accuracies, tested = [125, 500, 250], [0.7, 0.8, 0.76], [900, 500, 700]
    one, other = (PowerLaws.of(sizes[::step], accuracies[::step], tested[::step], 0.1) for step in (1, -1))
    assert one.at(2000) == other.at(2000)
    assert one.asymptote == pytest.approx(other.asymptote)


def test_the_weights_are_those_of_bayes_rule():
    """Two laws of the grid, their scores written out."""
    laws = of([0.7, 0.76, 0.8], tested=500)
    assert laws.weights.sum() == pytest.approx(1)

    def score(place: int) -> float:
        errors = [
            laws.errors[place]
            * (laws.shares[place] + (1 - laws.shares[place]) * (size / 500) ** -laws.exponents[place])
            for size in SIZES
        ]
        total = -((laws.exponents[place] - 0.5) ** 2) / (2 * 0.15**2)
        for found, error in zip(errors, (0.3, 0.24, 0.2), strict=True):
            smoothed = (500 * error + 0.5) / 501
            run = min(0.01, 0.01 * np.sqrt(smoothed) / 0.3)
            total -= (found - error) ** 2 / (2 * (smoothed * (1 - smoothed) / 500 + run**2))
        return float(total)

    likely = np.argsort(laws.weights)[[-1, -50, -2000]]
    for place in likely[1:]:
        ratio = np.log(laws.weights[place] / laws.weights[likely[0]])
        assert ratio == pytest.approx(score(int(place)) - score(int(likely[0])), abs=1e-6)
