import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gengap import __version__
from lightning_gengap.cli import main
from tests.lightning_models import blobs, saved
from tests.tiny_predictors import tiny_monitor

VERBS = [
    ["demo"],
    ["predictors"],
    ["measures"],
    ["measure"],
    ["learning-curve"],
    ["compare"],
    ["recalibrate"],
    ["zoo"],
    *(["zoo", stage] for stage in ("run", "remeasure", "table", "fit", "evaluate")),
]
VALUES = {
    "train_accuracy": 0.9,
    "train_loss": 0.3,
    "classes": 10.0,
    "train_samples": 1000.0,
    "difficulty/ridge_extrapolated": 0.5,
    "difficulty/neighbour_1_accuracy": 0.4,
}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def build_nothing() -> str:
    return "no module"


def build_in_vain() -> nn.Module:
    raise RuntimeError("no data\nhere")


def build_and_leave() -> nn.Module:
    raise SystemExit(0)


class FailsLater(nn.Module):
    """Works once, as a first look at it might."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = build(), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 1:
            raise ZeroDivisionError("again")
        return self.net(inputs)


MODEL = f"{__name__}:build"


def saved_data(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.normal(size=(60, 12)).astype(np.float32), "labels": rng.integers(0, 3, 60)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with good and bad files."""
    monkeypatch.chdir(tmp_path)
    saved_data(tmp_path / "data.npz")
    saved_data(tmp_path / "no_labels.npz", labels=None)
    saved_data(tmp_path / "float_labels.npz", labels=np.zeros(60))
    saved_data(tmp_path / "few_labels.npz", labels=np.zeros(59, int))
    saved_data(tmp_path / "words.npz", labels=np.array(["a"] * 60))
    saved_data(tmp_path / "objects.npz", labels=np.array([None] * 60))
    saved_data(tmp_path / "wide.npz", inputs=np.zeros((60, 13), np.float32))
    saved_data(tmp_path / "double.npz", inputs=np.zeros((60, 12)))
    saved_data(tmp_path / "big_endian.npz", inputs=np.zeros((60, 12), ">f4"), names=np.array([None]))
    with zipfile.ZipFile(tmp_path / "no_arrays.npz", "w") as archive:
        archive.writestr("inputs", "words")
        archive.writestr("labels", "words")
    np.save(tmp_path / "array.npy", np.zeros(3))
    torch.save(build().state_dict(), tmp_path / "model.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    kept = {"GapMonitor": {"memory": {"initial_state": 3}}}
    torch.save({"state_dict": build().state_dict(), "callbacks": kept}, tmp_path / "odd.ckpt")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty").touch()
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "cut.json").write_text('{"format": 1,')
    (tmp_path / "no_gap.json").write_text('[{"values": {}}]')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "huge.json").write_text(f'[{{"values": {{}}, "gap": 1{"0" * 400}}}]')
    (tmp_path / "pairs.json").write_text(
        json.dumps([{"values": VALUES | {"model": "resnet"}, "gap": 0.1, "samples": 500}] * 3)
    )
    return tmp_path


def test_predictors_are_listed_in_columns(capsys: pytest.CaptureFixture[str]):
    assert main(["predictors"]) == 0
    titles, *rows = capsys.readouterr().out.splitlines()
    assert titles.split() == ["name", "predicts", "features", "runs", "tasks", "is"]
    assert rows[0].split() == ["default", "accuracy_gap", "7", "120", "34", "default_v4"]
    assert all(row[titles.index("predicts") :].startswith("accuracy_gap") for row in rows)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "default",
            [
                "Fitted on 1984 snapshots of 120 runs in 34 tasks",
                "Interval 90%, from gap - 0.0258 x (gap + 2) to gap + 0.0258 x (gap + 2)",
                "On images images_v5 predicts in its place",
                "agreement/best identity +0.4 0.843 0.438 to 1",
                "leave one source out 1984 2.1 [1.6, 2.8]",
                "* For images, regression: the runs above include none.",
            ],
        ),
        ("cifar10_cnn_small_v1", ["by run, all snapshots 298 1.4 [1.2, 1.6]"]),
    ],
)
def test_a_predictor_is_described_for_people(capsys: pytest.CaptureFixture[str], name: str, lines: list[str]):
    assert main(["predictors", name]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in [*lines, "When not to use it"]:
        assert any(shown.startswith(line) for shown in printed)


def test_a_predictor_is_printed_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["predictors", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "default_v4"


def test_a_measure_is_described_for_people(capsys: pytest.CaptureFixture[str]):
    assert main(["measures", "worst_case"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("worst_case")
    assert "|---|" not in printed


def test_measure_prints_values_and_prediction_of_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["measure", "--model", MODEL, "--data", "data.npz", "--checkpoint", "model.pt"]
    assert main([*arguments, "--train-samples", "600"]) == 0
    captured = capsys.readouterr()
    assert all(line.startswith("gengap: ") and "is absent" in line for line in captured.err.splitlines())
    assert "no initial weights" in captured.err
    printed = json.loads(captured.out)
    assert printed["values"]["train_samples"] == 600
    assert printed["values"]["classes"] == 3
    assert printed["prediction"]["abstained"]  # it was never trained
    assert {"train_accuracy", "initial_weights"} <= set(printed["prediction"]["outside"])


def test_only_the_samples_are_read_whatever_their_byte_order(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["measure", "--model", MODEL, "--data", "big_endian.npz"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["probe_samples"] == 60


def test_the_initial_weights_that_a_monitor_kept_in_a_checkpoint_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    saved(folder, tiny_monitor(), epochs=1)
    images, labels = (tensor.numpy() for tensor in blobs().tensors)
    saved_data(folder / "blobs.npz", inputs=images, labels=labels)
    arguments = ["--model", "tests.lightning_models:TinyModel", "--data", "blobs.npz", "--checkpoint", "saved.ckpt"]
    assert main(["measure", *arguments, "--train-samples", "2000"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "difficulty/ridge_accuracy" in printed["values"]  # of the untrained network


def test_checkpoints_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]):
    for name, epochs in (("short", 1), ("long", 3)):
        (folder / name).mkdir()
        saved(folder / name, tiny_monitor(held_out=blobs(40, seed=1)), epochs=epochs)
    assert main(["compare", "short/saved.ckpt", "long/saved.ckpt", "--same", "recipe"]) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("| checkpoint | epochs | predicted | held out | estimated")
    assert {row.split(" | ")[0] for row in rows} == {"| short/saved.ckpt", "| long/saved.ckpt"}
    assert main(["compare", "short/saved.ckpt", "long/saved.ckpt", "--same", "seed"]) == 2


def test_a_learning_curve_is_printed_drawn_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]):
    images, labels = (tensor.numpy() for tensor in blobs(160).tensors)
    saved_data(folder / "blobs.npz", inputs=images, labels=labels)
    arguments = ["learning-curve", "--model", "tests.lightning_models:TinyModel", "--data", "blobs.npz", "--epochs"]
    more = ["--fractions", "1/4,0.5", "--trainer", '{"accelerator": "cpu"}', "--out", "parts"]
    assert main([*arguments, "1", *more, "--figure", "curve.png"]) == 0
    printed = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in printed.splitlines()[2:]] == ["| 40", "| 80", "| 160", "| 320", "| 640"]
    assert (folder / "curve.png").is_file()
    assert main([*arguments, "1", *more]) == 0
    assert capsys.readouterr().out == printed
    assert main([*arguments, "2", *more]) == 2
    assert "other argument max_epochs (1 instead of 2)" in capsys.readouterr().err


def test_recalibrated_predictor_is_written_and_loads(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["recalibrate", "pairs.json", "--predictor", "default_v3", "--out", "mine.json"]) == 0
    assert "3 observed gaps" in capsys.readouterr().out
    assert main(["predictors", "mine.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("default_v3+recalibrated\n")
    assert "Recalibrated by 3 observed gaps" in printed


MEASURE = ["measure", "--model", MODEL, "--data"]
RECALIBRATE = ["recalibrate", "pairs.json", "--out"]
REFUSED = {
    "no verb": ([], "Missing command. See `gengap --help`"),
    "a verb that is not there": (["predictor"], "Did you mean 'predictors'?"),
    "an option that is not there": (["predictors", "--jsno"], "See `gengap predictors --help`"),
    "an argument too many": (["measures", "margin", "fit"], "unexpected extra argument"),
    "no number": (["demo", "--epochs", "few"], "'--epochs'"),
    "a number out of range": (["demo", "--epochs", "0"], "greater than or equal to 1"),
    "a required option left out": (["measure", "--model", MODEL], "Missing option '--data'"),
    "JSON of no predictor": (["predictors", "--json"], "'--json': name the predictor"),
    "an unknown predictor": (["predictors", "oracle"], "got 'oracle'; expected one of default"),
    "a folder as predictor": (["predictors", "."], "or the path of a predictor file"),
    "a binary file as predictor": (["predictors", "binary"], "got bytes that are not UTF-8 text"),
    "half a predictor": (["predictors", "cut.json"], "got text that is not JSON"),
    "a list as predictor": (["predictors", "list.json"], "got format 'list'"),
    "an unknown measure": (["measures", "margins"], "got 'margins'; expected one of margin"),
    "nearly a measure": (["measures", "margins"], "Did you mean 'margin'?"),
    "nearly a predictor": (["predictors", "defualt"], "Did you mean 'default'?"),
    "no file of samples": ([*MEASURE, "nowhere.npz"], "--data nowhere.npz: got FileNotFoundError"),
    "a folder of samples": ([*MEASURE, "."], "--data .: got IsADirectoryError"),
    "binary samples": ([*MEASURE, "binary"], "--data binary: got"),
    "an empty file of samples": ([*MEASURE, "empty"], "--data empty: got EOFError"),
    "an array alone": ([*MEASURE, "array.npy"], "expected an .npz file"),
    "samples without labels": ([*MEASURE, "no_labels.npz"], "got arrays inputs; expected an .npz file with `images`"),
    "labels that are no classes": ([*MEASURE, "float_labels.npz"], "expected integer class indices"),
    "too few labels": ([*MEASURE, "few_labels.npz"], "labels of shape (59,)"),
    "labels of words": ([*MEASURE, "words.npz"], "labels of <U1"),
    "labels of objects": ([*MEASURE, "objects.npz"], "got ValueError: Object arrays cannot be loaded"),
    "samples of another shape": ([*MEASURE, "wide.npz"], "expected a model that takes inputs of shape (60, 13)"),
    "samples of another dtype": ([*MEASURE, "double.npz"], "torch.float64"),
    "members that are no arrays": ([*MEASURE, "no_arrays.npz"], "a member that is no array"),
    "too many samples in training": ([*MEASURE, "data.npz", "--train-samples", "9" * 400], "'--train-samples'"),
    "no samples in training": ([*MEASURE, "data.npz", "--train-samples", "0"], "'--train-samples'"),
    "no checkpoint": ([*MEASURE, "data.npz", "--checkpoint", "nowhere.pt"], "got FileNotFoundError"),
    "a folder as checkpoint": ([*MEASURE, "data.npz", "--checkpoint", "."], "got IsADirectoryError"),
    "a binary file as checkpoint": (
        [*MEASURE, "data.npz", "--checkpoint", "binary"],
        "expected a Lightning checkpoint",
    ),
    "a list as checkpoint": ([*MEASURE, "data.npz", "--checkpoint", "list.pt"], "expected a Lightning checkpoint"),
    "a checkpoint of another monitor": ([*MEASURE, "data.npz", "--checkpoint", "odd.ckpt"], "AttributeError"),
    "another model's weights": ([*MEASURE, "data.npz", "--checkpoint", "other.pt"], "Missing key(s) in state_dict"),
    "an unknown predictor to measure for": ([*MEASURE, "data.npz", "--predictor", "oracle"], "one of default"),
    "a model that cannot be imported": (
        ["measure", "--model", "no_such:build", "--data", "data.npz"],
        "No module named",
    ),
    "a model without a callable": (["measure", "--model", "json", "--data", "data.npz"], "expected module:callable"),
    "a callable that is not there": (
        ["measure", "--model", "json:build", "--data", "data.npz"],
        "no attribute 'build'",
    ),
    "a callable that raises": (
        ["measure", "--model", f"{__name__}:build_in_vain", "--data", "data.npz"],
        "no data here",
    ),
    "a callable that leaves": (
        ["measure", "--model", f"{__name__}:build_and_leave", "--data", "data.npz"],
        "SystemExit",
    ),
    "a model that fails later": (
        ["measure", "--model", f"{__name__}:FailsLater", "--data", "data.npz"],
        "got ZeroDivisionError: again",
    ),
    "a callable without a model": (
        ["measure", "--model", f"{__name__}:build_nothing", "--data", "data.npz"],
        "type str",
    ),
    "no pairs": (["recalibrate", "nowhere.json", "--out", "new.json"], "nowhere.json: got FileNotFoundError"),
    "a folder of pairs": (["recalibrate", ".", "--out", "new.json"], "got IsADirectoryError"),
    "binary pairs": (["recalibrate", "binary", "--out", "new.json"], "got UnicodeDecodeError"),
    "numbers as pairs": (["recalibrate", "list.json", "--out", "new.json"], "expected a JSON list of"),
    "pairs without a gap": (["recalibrate", "no_gap.json", "--out", "new.json"], "KeyError: 'gap'"),
    "pairs too deep to read": (["recalibrate", "deep.json", "--out", "new.json"], "got RecursionError"),
    "a gap beyond all numbers": (["recalibrate", "huge.json", "--out", "new.json"], "got OverflowError"),
    "half a list of pairs": (["recalibrate", "cut.json", "--out", "new.json"], "got JSONDecodeError"),
    "an output that exists": ([*RECALIBRATE, "list.json"], "--out list.json: got a file that exists"),
    "an output in no folder": (
        [*RECALIBRATE, "no/new.json"],
        "got no folder no; expected a path in a folder that exists",
    ),
    "a file as folder of the demo": (["demo", "--epochs", "1", "--out", "empty"], "got FileExistsError"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_line_and_status_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("gengap: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("new.json").exists()


def test_version_and_help_import_neither_torch_nor_lightning():
    code = f"""
import sys
from lightning_gengap.cli import main
for verb in [["--version"], [], *{VERBS!r}]:
    assert main([*verb, "--help"] if verb != ["--version"] else verb) == 0
print([name for name in ("torch", "lightning", "pandas", "sklearn", "numpy", "scipy") if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[0] == f"gengap {__version__}"
    assert printed.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f"Usage: gengap {' '.join(verb)} [OPTIONS]" in printed


@pytest.mark.parametrize(
    "command", [["-m", "lightning_gengap"], ["-c", "from lightning_gengap.cli import main; main()"]]
)
def test_the_module_is_the_command(command: list[str]):
    shown = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"gengap {__version__}\n"
