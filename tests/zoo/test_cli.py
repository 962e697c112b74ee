import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from lightning_gengap.cli import main
from lightning_gengap.zoo.report import figures
from lightning_gengap.zoo.table import read, write
from lightning_gengap.zoo.train.plans import PLANS, digits_zoo
from tests.zoo.tables import rows

TABLE = Path(__file__).parents[2] / "pretrained_predictors" / "small_zoo_v3.csv.gz"


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


def test_an_error_in_a_worker_process_is_said_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train = ["zoo", "run", "--plan", "small", "--tasks", "1", "--data", str(tmp_path), "--out", str(tmp_path / "runs")]
    assert main([*train, "--processes", "2"]) == 2
    assert "expected arrays <source>_{train,test}_{images,labels}.npy" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with bad files and with what must not be overwritten."""
    monkeypatch.chdir(tmp_path)
    for name in ("file", "carded.md", "drawn.png", "written/report.md", "counted/report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "foreign.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (tmp_path / "cut.csv.gz").write_bytes(TABLE.read_bytes()[:10_000])
    return tmp_path


NO_RUNS = "got no finished run in"
OF_GRID = ["--name", "cifar10_cnn_small_v1"]
UNREADABLE = "got a file that cannot be read"
REFUSED = {
    "no stage": ([], "Missing command. See `gengap zoo --help`"),
    "a plan that is not there": (["run", "--plan", "tiny"], "'tiny' is not one of 'small', 'grids'"),
    "no process": (["run", "--processes", "0"], "0 is neither -1 nor a number of processes"),
    "no task": (["run", "--tasks", "0"], "'--tasks'"),
    "a file as folder of runs": (["run", "--plan", "digits", "--out", "file"], "got FileExistsError"),
    "a folder without runs": (["remeasure", ".", "--measures", "distance"], NO_RUNS),
    "no folder of runs": (["remeasure", "nowhere", "--measures", "distance"], NO_RUNS),
    "a file of runs": (["remeasure", "file", "--measures", "distance"], NO_RUNS),
    "no measures": (["remeasure", "."], "Missing option '--measures'"),
    "unknown measures": (["remeasure", ".", "--measures", "distance", "distanse"], "'distanse'"),
    "nothing to collect": (["table", "--out", "new.csv.gz"], "Missing argument"),
    "runs that are not there": (["table", "nowhere", "--out", "new.csv.gz"], UNREADABLE),
    "an empty folder of runs": (["table", ".", "--out", "new.csv.gz"], "got no whole run in ."),
    "a table that exists": (["table", str(TABLE), "--out", "file"], "got a file that exists"),
    "a table in no folder": (["table", str(TABLE), "--out", "no/new.csv.gz"], "got no folder no"),
    "no table": (["fit", "nowhere", "--out", "new.json"], UNREADABLE),
    "a folder as table": (["fit", ".", "--out", "new.json"], UNREADABLE),
    "a binary table": (["fit", "binary", "--out", "new.json"], UNREADABLE),
    "half a table": (["fit", "cut.csv.gz", "--out", "new.json"], UNREADABLE),
    "another table": (["fit", "foreign.csv.gz", "--out", "new.json"], "got no column run, task"),
    "a predictor that exists": (["fit", str(TABLE), "--out", "file"], "got a file that exists"),
    "a predictor in no folder": (["fit", str(TABLE), "--out", "no/new.json"], "got no folder no"),
    "a predictor in its card's place": (["fit", str(TABLE), "--out", "new.md"], "got the path of the card"),
    "a predictor in a folder's place": (["fit", str(TABLE), "--out", "written"], "got a folder"),
    "a card that exists": (["fit", str(TABLE), "--out", "carded.json"], "carded.md: got a file that exists"),
    "a figure that exists": (["fit", "nowhere", *OF_GRID, "--out", "drawn.json"], "drawn.png: got a file that exists"),
    "a predictor in its figure's place": (["fit", "nowhere", *OF_GRID, "--out", "drawn.png"], "the path of the figure"),
    "unknown features": (["fit", str(TABLE), "--out", "new.json", "--like", "oracle"], "expected one of"),
    "a binary table to evaluate on": (["evaluate", "binary", "--out", "new"], UNREADABLE),
    "no predictor to evaluate": (["evaluate", str(TABLE), "--predictor", "oracle", "--out", "new"], "one of default"),
    "a binary predictor": (["evaluate", str(TABLE), "--predictor", "binary", "--out", "new"], "not UTF-8 text"),
    "a file as folder of a report": (["evaluate", str(TABLE), "--out", "file"], "got a file that exists"),
    "a report that exists": (["evaluate", str(TABLE), "--out", "written"], "report.md: got a file that exists"),
    "numbers that exist": (["evaluate", str(TABLE), "--out", "counted"], "report.json: got a file that exists"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_line_and_status_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    before = contents()
    assert main(["zoo", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gengap: ")
    assert message in error
    assert error.count("\n") == 1
    assert contents() == before


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_table_becomes_a_predictor(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "mine.json"
    assert main(["zoo", "fit", str(TABLE), "--name", "mine_v1", "--out", str(out), "--no-scores"]) == 0
    assert "mine_v1 fitted on 655 runs" in capsys.readouterr().out
    assert main(["predictors", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mine_v1\n")
    assert "Not scored on held-out runs." in printed


@pytest.mark.parametrize("number", [1.0, math.nan])
def test_report_numbers_and_figures_are_written_together_or_not_at_all(
    number: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def draw(_: object, folder: Path) -> list[str]:
        (folder / "one.png").write_bytes(b"drawn")
        return ["one.png"]

    assessed = SimpleNamespace(report={"number": number})
    monkeypatch.setattr("lightning_gengap.zoo.release.assess", lambda *_: assessed)
    monkeypatch.setattr("lightning_gengap.zoo.release.report", lambda _, drawn: f"see {drawn}")
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
