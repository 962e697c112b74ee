"""The study of comparisons: its pairs, its held-out samples, and its scores against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparison import Likeness, Zoo, brier, by_likeness, calibration, lines, of_higher_prediction, paired
from held_out_samples import RealAnswers

from lightning_gengap.predictors.comparison import in_common
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.splits import by_task
from lightning_gengap.zoo.table import Rows
from tests.zoo.tables import table

SPECIFICATION = Specification("small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), offset=2.0)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    made = table(noise=0.2)
    found = held_out_residuals(made, SPECIFICATION, by_task(made), np.ones(len(made), bool))
    return Zoo.of(made, found, np.ones(len(found.rows)))


def test_pairs_are_of_one_task_or_of_one_run(zoo: Zoo) -> None:
    one, other = zoo.pairs_of_runs(np.random.default_rng(0)).T
    assert (zoo.tasks[one] == zoo.tasks[other]).all()
    assert (zoo.runs[one] != zoo.runs[other]).all()
    assert (zoo.epochs[[one, other]] == 4).all()
    one, other = zoo.pairs_of_epochs(np.random.default_rng(0)).T
    assert (zoo.runs[one] == zoo.runs[other]).all()
    assert (zoo.epochs[one] != zoo.epochs[other]).all()
    assert zoo.weights(np.stack([one, other], axis=1)).sum() == pytest.approx(1.0)


def test_both_share_the_held_out_samples(zoo: Zoo) -> None:
    rng = np.random.default_rng(0)
    pair = zoo.pairs_of_runs(rng)[0]
    (one, other), tested = zoo.contenders(pair, 20_000, rng)
    right = [each.standing.answers.right() for each in (one, other)]
    assert tested.tolist() == zoo.tested[pair].tolist()
    assert [each.mean() for each in right] == pytest.approx(zoo.tested[pair], abs=0.02)
    assert 0.3 < in_common(*right) < 0.5
    assert [seen.epoch for seen in one.observations] == [1, 2, 3, 4]
    assert one.observations[-1].accuracy == pytest.approx(right[0].mean())


def test_real_samples_are_shared_and_others_judge(zoo: Zoo) -> None:
    def draw(rows: Rows, samples: int, seed: int) -> RealAnswers:
        right = np.random.default_rng(seed).random(samples) < 0.5
        judged = np.full(len(rows), 0.25)
        return RealAnswers(np.tile(right, (len(rows), 1)), judged, np.stack([judged, judged]), judged)

    pair = zoo.pairs_of_runs(np.random.default_rng(0))[0]
    (one, other), tested = replace(zoo, real=draw).contenders(pair, 40, np.random.default_rng(0))
    assert one.standing.answers == other.standing.answers
    assert 0 < one.observations[0].accuracy < 1
    assert tested.tolist() == [0.25, 0.25]


def test_a_line_for_each_number_of_samples_and_model(zoo: Zoo) -> None:
    pairs = zoo.pairs_of_runs(np.random.default_rng(0))[::20]
    made = lines(zoo, pairs, "task", draws=1)
    assert [line[0] for line in made] == ["0", "50", "100", "200"]
    assert float(made[-1][1]) < float(made[0][1])  # samples help
    assert made[0][3] == "-"
    assert 0 < float(made[-1][3]) < 0.25  # the samples alone
    assert len(by_likeness(zoo, pairs, "task")) == 9
    assert len(by_likeness(zoo, pairs, "run")) == 7
    assert "of all pairs" in of_higher_prediction(zoo, pairs)


def test_the_stated_models_are_those_of_the_package(zoo: Zoo) -> None:
    from lightning_gengap.predictors.comparison import compared
    from lightning_gengap.predictors.likeness import ALIKE, REACH, STRETCH

    pairs = zoo.pairs_of_runs(np.random.default_rng(0))[:5]
    sure = Zoo(**{**vars(zoo), "test_samples": np.full(len(zoo.tested), 1e12)})  # tests without an error
    probability, _ = Likeness("", REACH, ALIKE["task"], STRETCH).probability_and_score(sure, pairs)
    said = [compared(*zoo.contenders(pair, 0, np.random.default_rng(0))[0], "task").probability for pair in pairs]
    assert probability == pytest.approx(said, abs=1e-6)


def test_scores_are_those_worked_out_by_hand() -> None:
    weights = np.full(4, 0.25)
    assert brier(np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.1, 0.1, 0.1, 0.0]), weights) == pytest.approx(1.25 / 4)
    shown, mean, largest = calibration(np.array([0.9, 0.1, 0.62, 0.62]), np.array([1.0, -1.0, 1.0, -1.0]), weights)
    assert shown == ["0.62: 0.50", "0.90: 1.00"]
    assert (mean, largest) == pytest.approx((0.11, 0.12))


def test_the_paired_test_counts_the_samples_on_which_both_differ() -> None:
    first = np.repeat([True, False], [12, 8])
    assert paired(first, first) == 0.5
    assert paired(first, ~first) == pytest.approx(0.813, abs=0.01)  # 12 to 8
    assert paired(first, ~first) == pytest.approx(1 - paired(~first, first))
