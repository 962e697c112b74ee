from dataclasses import replace

import pytest

from lightning_gengap.zoo.evaluate.held_out import Setting
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.evaluate.split_scores import locked_scores
from lightning_gengap.zoo.splits import locked_parts
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import table


def test_planted_specification_beats_its_baselines_on_every_split(assessment: Assessment):
    report = assessment.report
    by_task = report["splits"]["by task"]
    assert by_task["mae"]["planted"][0] < by_task["mae"]["trivial"][0] < by_task["mae"]["constant"][0]
    assert by_task["skill"][0] == pytest.approx(
        1 - by_task["mae"]["planted"][0] / by_task["mae"]["trivial"][0], abs=1e-3
    )
    assert by_task["r2"]["planted"][0] > by_task["r2"]["trivial"][0] > by_task["r2"]["constant"][0]
    assert set(report["splits"]["leave one family out"]["groups"]) == {"cnn", "vgg", "resnet", "mlp", "vit"}
    assert all("at least 20 runs in 5 tasks" in next(iter(p["skipped"].values())) for p in report["locked"].values())
    assert report["left_out"] == ["Jiang's 20 margin features"]  # of which there is one
    for name, low, high in ((n, *score[1:]) for n, score in by_task["mae"].items()):
        assert low < by_task["mae"][name][0] < high


def test_planted_specification_ranks_within_tasks_and_chooses_within_runs(assessment: Assessment):
    along = assessment.report["ranking"]["along training"]
    assert along["tau"]["planted"][0] > 0.8 > along["tau"]["train accuracy"][0]
    assert along["over trivial"]["planted"][1] > 0  # clear of zero
    assert along["tasks"] == 10
    assert assessment.report["turn"]["runs"] == 0  # four snapshots are too few


def test_locked_parts_are_scored_by_fits_to_the_development_part():
    setting = Setting.of(table(), PLANTED, locked=True)
    listed, predictions = locked_scores(replace(setting, contenders=setting.contenders[:3]))
    assert set(predictions) == set(listed)
    assert set(listed) == {"tasks", "source fashion_mnist", "family vit"}
    for name, part in locked_parts(setting.table).items():
        assert listed[name]["rows"] == part.sum()
        assert listed[name]["mae"]["planted"][0] < listed[name]["mae"]["trivial"][0]


def test_stages_and_contributions_add_up(assessment: Assessment):
    stages, report = assessment.report["stages"], assessment.report
    thirds = [stages[name]["rows"] for name in ("first third of training", "second third", "last third")]
    assert sum(thirds) == report["splits"]["by task"]["rows"]
    total = sum(c["mean"][0] for c in report["contributions"].values())
    actual = 100 * assessment.setting.table.numbers("gap.accuracy")[assessment.setting.among].mean()
    assert total == pytest.approx(actual, abs=0.5)
