import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.zoo import plans
from lightning_gengap.zoo.plans import digits_zoo
from lightning_gengap.zoo.table import read


@pytest.fixture
def two_small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits plan cut down to two runs of seconds."""

    def short(tasks: int) -> list[object]:
        made = list(digits_zoo(tasks))[:2]
        task = replace(made[0].task, train_samples=120)
        return [replace(r, task=task, epochs=4, snapshot_every=2, width=12, depth=1) for r in made]

    monkeypatch.setattr(plans, "digits_zoo", short)


@pytest.mark.usefixtures("two_small_runs")
def test_runs_are_trained_once_measured_again_and_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs, table = tmp_path / "runs", tmp_path / "t.csv.gz"
    train = ["zoo", "run", "--plan", "digits", "--tasks", "1", "--out", str(runs), "--keep-weights", "--processes", "1"]
    assert main(train) == 0
    assert "2 runs trained, 0 were there already" in capsys.readouterr().out
    assert main(train) == 0
    assert "0 runs trained, 2 were there already" in capsys.readouterr().out
    assert main(["zoo", "remeasure", str(runs), "--measures", "distance", "--processes", "1"]) == 0
    assert "2 runs measured" in capsys.readouterr().out
    assert main(["zoo", "table", str(runs), "--out", str(table)]) == 0
    assert len(read(table)) == 6
    both = tmp_path / "both.csv.gz"
    assert main(["zoo", "table", str(runs), str(table), "--out", str(both)]) == 0
    assert len(read(both)) == 6  # the same snapshots, once


def test_remeasure_without_runs_and_with_unknown_measures_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["zoo", "remeasure", str(tmp_path), "--measures", "distance"]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main(["zoo", "remeasure", str(tmp_path), "--measures", "distanse"]) == 2
    assert "'distanse'" in capsys.readouterr().err


def test_recalibrated_predictor_is_written_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = {
        "train_accuracy": 0.9,
        "train_loss": 0.3,
        "classes": 10.0,
        "train_samples": 1000.0,
        "difficulty/ridge_accuracy": 0.5,
        "difficulty/excess_accuracy": 0.4,
        "margin/input/median": 0.1,
    }
    pairs, out = tmp_path / "pairs.json", tmp_path / "mine.json"
    pairs.write_text(json.dumps([{"values": values, "gap": 0.1}] * 3))
    arguments = ["recalibrate", str(pairs), "--predictor", "default_v1", "--out", str(out)]
    assert main(arguments) == 0
    assert "3 observed gaps" in capsys.readouterr().out
    assert main(["predictors", str(out)]) == 0
    assert '"default_v1+recalibrated"' in capsys.readouterr().out
    assert main(arguments) == 2
    pairs.write_text('[{"values": {}}]')
    assert main([*arguments[:-1], str(tmp_path / "other.json")]) == 2
    assert "KeyError: 'gap'" in capsys.readouterr().err
