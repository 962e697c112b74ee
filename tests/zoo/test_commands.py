import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from lightning_gengap.__main__ import main
from lightning_gengap.zoo.report import figures
from lightning_gengap.zoo.table import read, write
from lightning_gengap.zoo.train.plans import PLANS, digits_zoo
from tests.zoo.tables import rows


@pytest.fixture
def two_small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits plan cut down to two runs of seconds."""

    def short(tasks: int = 50) -> list[object]:
        made = list(digits_zoo(tasks))[:2]
        task = replace(made[0].task, train_samples=120)
        return [replace(r, task=task, epochs=4, snapshot_every=2, width=12, depth=1) for r in made]

    monkeypatch.setitem(PLANS, "digits", short)


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


@pytest.mark.usefixtures("two_small_runs")
def test_a_cut_run_is_named_left_out_and_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = tmp_path / "runs"
    train = ["zoo", "run", "--plan", "digits", "--out", str(runs), "--processes", "1", "--accelerator", "auto"]
    assert main(train) == 0
    cut = sorted(runs.glob("*.json"))[0]
    cut.write_text(cut.read_text()[:-40])
    assert main(["zoo", "table", str(runs), "--out", str(tmp_path / "t.csv.gz")]) == 0
    said = capsys.readouterr()
    assert "3 snapshots of 1 runs" in said.out
    assert f"skipped {cut}: not a whole run. Repeat it with `gengap zoo run`" in said.err
    assert main(train) == 0
    assert "1 runs trained, 1 were there already" in capsys.readouterr().out


def test_no_gpu_is_said_before_the_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for kind in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    assert main(["zoo", "run", "--plan", "digits", "--out", str(tmp_path / "runs"), "--accelerator", "gpu"]) == 2
    assert "--accelerator gpu: got no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_contradictory_table_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = rows(1)
    first, second, out = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz", tmp_path / "both.csv.gz"
    write(made[:1], first)
    write([row | {"task": "other"} for row in made[1:4]], second)
    assert main(["zoo", "table", str(first), str(second), "--out", str(out)]) == 2
    assert "of run 00-0; expected one task per run" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("number", [1.0, math.nan])
def test_report_numbers_and_figures_are_written_together_or_not_at_all(
    number: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def draw(_: object, folder: Path) -> list[str]:
        (folder / "one.png").write_bytes(b"drawn")
        return ["one.png"]

    assessed = SimpleNamespace(report={"number": number})
    monkeypatch.setattr("lightning_gengap.zoo.evaluate.scores.assess", lambda *_: assessed)
    monkeypatch.setattr("lightning_gengap.zoo.report.report.report", lambda _, drawn: f"see {drawn}")
    monkeypatch.setattr(figures, "draw", draw)
    monkeypatch.setattr(figures, "drawable", lambda: True)
    write(rows(2), tmp_path / "t.csv.gz")
    out = tmp_path / "out"
    command = ["zoo", "evaluate", str(tmp_path / "t.csv.gz"), "--predictor", "default_v3", "--out"]
    if math.isnan(number):
        with pytest.raises(ValueError, match="JSON"):
            main([*command, str(out)])
        assert not out.exists()
        return
    assert main([*command, str(out)]) == 0
    assert (out / "one.png").read_bytes() == b"drawn"
    assert (out / "report.md").read_text() == "see ['one.png']"
    assert json.loads((out / "report.json").read_text()) == {"number": 1.0}


def test_recalibrated_predictor_is_written_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = {"train_accuracy": 0.9, "train_loss": 0.3, "classes": 10.0, "train_samples": 1000.0}
    values |= {"difficulty/ridge_extrapolated": 0.5, "difficulty/neighbour_1_accuracy": 0.4}
    pairs, out = tmp_path / "pairs.json", tmp_path / "mine.json"
    pairs.write_text(json.dumps([{"values": values, "gap": 0.1}] * 3))
    arguments = ["recalibrate", str(pairs), "--predictor", "default_v3", "--out", str(out)]
    assert main(arguments) == 0
    assert "3 observed gaps" in capsys.readouterr().out
    assert main(["predictors", str(out)]) == 0
    assert '"default_v3+recalibrated"' in capsys.readouterr().out
    assert main(arguments) == 2
    pairs.write_text('[{"values": {}}]')
    assert main([*arguments[:-1], str(tmp_path / "other.json")]) == 2
    assert "KeyError: 'gap'" in capsys.readouterr().err
