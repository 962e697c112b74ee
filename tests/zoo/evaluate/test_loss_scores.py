import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_gengap.zoo.evaluate.held_out import Setting, hold_out_all
from lightning_gengap.zoo.evaluate.loss_scores import loss_scores, rank_correlation
from lightning_gengap.zoo.splits import splits
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table, table_of


def scored(law: Callable[[dict[str, Any]], float], names: tuple[str, ...] = ("by task",)) -> Any:
    made = rows(20, noise=0.1)
    for row in made:
        row["gap.loss"] = law(row)
    setting = Setting.of(table_of(made), PLANTED, locked=True)
    setting = replace(setting, contenders=setting.contenders[:3])  # without Jiang's margins
    split_of = splits(setting.table)
    return loss_scores(setting, {name: (split_of[name], hold_out_all(setting, split_of[name])[0]) for name in names})


def test_a_law_of_the_features_is_predicted_and_beats_the_baselines():
    def law(row: dict[str, Any]) -> float:
        return math.exp(1 - 2 * row["measure.difficulty/ridge_accuracy"]) / math.sqrt(row["measure.train_loss"])

    names = ("by task", "leave one family out")
    result = scored(law, names)
    for name in names:
        part = result["splits"][name]
        assert part["rows"] == 640
        assert part["mae"]["planted"][0] < 0.01 < 0.1 < part["mae"]["trivial"][0] < part["mae"]["constant"][0]
        assert part["log mae"]["planted"][0] < 0.005
        assert part["r2"]["planted"][0] > 0.999
        assert part["log r2"]["planted"][0] > 0.999 > part["log r2"]["trivial"][1]
        assert part["rank correlation"]["planted"][0] > 0.999
        assert part["skill"][0] == pytest.approx(1 - part["mae"]["planted"][0] / part["mae"]["trivial"][0], abs=1e-3)
        assert "constant" not in part["rank correlation"]
    assert set(result["splits"]["leave one family out"]["groups"]) == {"cnn", "vgg", "resnet", "mlp", "vit"}
    along = result["ranking"]["along training"]
    assert along["tasks"] == 20
    assert along["tau"]["planted"][0] > 0.99  # within a task only the train loss moves
    assert along["tau"]["minus train loss"][0] > 0.99


def test_gaps_that_belong_to_the_task_alone_are_not_predicted_for_new_tasks():
    drawn = dict(zip((f"task{n:02}" for n in range(20)), np.random.default_rng(3).normal(size=20), strict=True))
    part = scored(lambda row: math.exp(drawn[row["task"]]))["splits"]["by task"]
    assert part["log r2"]["planted"][0] <= 0
    assert part["r2"]["planted"][0] <= 0
    assert part["rank correlation"]["planted"][1] < 0.1
    assert part["log skill"][0] < 0.1


def test_errors_in_nats_and_coverage_take_gaps_below_the_floor_as_they_are():
    rng = np.random.default_rng(0)
    part = scored(lambda row: -0.1 if rng.random() < 0.5 else 0.05)["splits"]["by task"]
    assert part["below floor"] == pytest.approx(0.5, abs=0.06)
    assert part["coverage"]["floored"][0] > 0.9
    assert part["coverage"]["kept"][0] == pytest.approx(0.5, abs=0.06)  # the interval never reaches below zero
    assert part["mae"]["constant"][0] > 0.07  # floored errors would be at most 0.03


def test_rank_correlation_is_spearmans_and_its_draws_weigh_the_ranks():
    setting = Setting.of(table(tasks=6), PLANTED, locked=True)
    rng = np.random.default_rng(0)
    every = np.arange(len(setting.table))
    actual = rng.normal(size=len(every))
    score = actual + rng.normal(size=len(every))
    found = rank_correlation(setting.resampling, score, actual, every)
    assert found.value == pytest.approx(spearmanr(score, actual).statistic)
    weights = setting.resampling.weights[5][setting.resampling.run_of_row].astype(int)
    times = np.repeat(every, weights)
    ranks = np.argsort(np.argsort(score)), np.argsort(np.argsort(actual))
    assert found.draws[5] == pytest.approx(np.corrcoef(ranks[0][times], ranks[1][times])[0, 1])
    assert rank_correlation(setting.resampling, score[:0], actual[:0], every[:0]).listed() is None


def test_no_scores_without_a_head_or_without_loss_gaps():
    setting = Setting.of(table(tasks=6), PLANTED, locked=True)
    assert loss_scores(setting, {}) == {}  # no loss gap in the table
    bare = replace(setting, contenders=(replace(PLANTED, loss_head=""), *setting.contenders[1:]))
    assert loss_scores(bare, {}) == {}


def test_the_prior_is_scored_where_the_predictor_of_the_accuracy_gap_abstains():
    def law(row: dict[str, Any]) -> float:
        gap = 0.3 / math.sqrt(row["measure.train_loss"])
        if row["run"] == "03-2":
            row["measure.train_loss"] = 1e-9  # far outside; what the head would say is e^5 nats or so
        return gap

    part = scored(law)["splits"]["by task"]
    assert part["abstained"] >= 4 / 640
    assert part["coverage"]["counts"][1] == round((1 - part["abstained"]) * 640)
    assert part["mae"]["planted"][0] < 0.2  # four errors of e^5 would add 0.9
