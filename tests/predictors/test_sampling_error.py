"""What an interval lacks where fewer samples were measured than in the fit, against simulated draws."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.parts import FITTED_SAMPLES, sampling_error

NORMAL = NormalDist().inv_cdf(0.95)
DRAWS = 20_000


def error(accuracy: float, measured: float, train_samples: float) -> float:
    return float(sampling_error(*(np.array([value]) for value in (accuracy, measured, train_samples)))[0])


@pytest.mark.parametrize("measured", [256, 512])
@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.97])
def test_it_is_the_spread_of_accuracies_on_a_part_of_the_samples(measured: int, accuracy: float):
    right = round(accuracy * FITTED_SAMPLES)
    draws = np.random.default_rng(0).hypergeometric(right, FITTED_SAMPLES - right, measured, DRAWS) / measured
    # The spread of DRAWS draws is known to 1 / sqrt(2 DRAWS), one in 200; five of these, and 1 / N of the formula.
    assert error(right / FITTED_SAMPLES, measured, 1e6) == pytest.approx(NORMAL * draws.std(), rel=0.03)


@pytest.mark.parametrize("measured", [256, 512])
def test_the_wider_interval_covers_what_the_narrow_one_covers_on_all_samples(measured: int):
    generator, half_width, right = np.random.default_rng(1), 0.05, round(0.7 * FITTED_SAMPLES)
    own = generator.normal(0.0, half_width / NORMAL, DRAWS)  # covered in 90 % by the half-width
    drawn = generator.hypergeometric(right, FITTED_SAMPLES - right, measured, DRAWS) / measured
    wider = np.hypot(half_width, sampling_error(drawn, np.full(DRAWS, measured), np.full(DRAWS, 1e6)))
    covered = (np.abs(own + drawn - right / FITTED_SAMPLES) <= wider).mean()
    assert covered == pytest.approx(0.9, abs=5 * (0.9 * 0.1 / DRAWS) ** 0.5)


@pytest.mark.parametrize(
    ("measured", "train_samples"), [(1024, 5000), (4096, 5000), (300, 300), (300, 200), (np.nan, 5000), (300, np.nan)]
)
def test_nothing_is_added_where_as_many_were_measured_as_in_the_fit_or_the_numbers_are_unknown(
    measured: float, train_samples: float
):
    expected = error(0.8, 300, 1e6) if np.isnan(train_samples) else 0.0  # the fit had at most its own number
    assert error(0.8, measured, train_samples) == expected


@pytest.mark.parametrize("name", ["default_v3", "images_v3"])
def test_predictors_widen_their_interval_and_predict_the_same_gap(name: str):
    predictor = load_predictor(name)
    values = dict.fromkeys(predictor.needs, 0.6) | {"train_accuracy": 0.9, "classes": 10.0, "train_samples": 2000.0}
    plain = predictor.predict(values)
    assert predictor.predict(values | {"probe_samples": 1024.0}) == plain
    fewer = predictor.predict(values | {"probe_samples": 256.0})
    assert fewer.gap == plain.gap
    added = np.hypot(plain.gap - plain.lower, error(0.9, 256, 2000)) - (plain.gap - plain.lower)
    assert added > 0.001
    assert plain.lower - fewer.lower == pytest.approx(added)
