import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gengap.__main__ import main


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def saved_data(folder: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.normal(size=(60, 12)).astype(np.float32), "labels": rng.integers(0, 3, 60)} | changes
    np.savez(folder / "data.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder / "data.npz"


def test_predictors_lists_names_and_shows_one(capsys: pytest.CaptureFixture[str]):
    assert main(["predictors"]) == 0
    assert "default_v3" in capsys.readouterr().out
    assert main(["predictors", "default"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "default_v3"


def test_measure_prints_values_and_prediction_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = build()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    reference = f"{build.__module__}:build"
    data = saved_data(tmp_path)
    arguments = ["measure", "--model", reference, "--data", str(data), "--checkpoint", str(tmp_path / "model.pt")]
    with pytest.warns(UserWarning, match="is absent"):  # no images, no initial weights
        assert main([*arguments, "--train-samples", "600"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["values"]["train_samples"] == 600
    assert printed["values"]["classes"] == 3
    assert printed["prediction"]["abstained"]  # no initial weights, so the difficulty is missing
    assert "difficulty/ridge_extrapolated" in printed["prediction"]["outside"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "expected `images` or `inputs`"),
        ({"labels": np.zeros(60)}, "expected integer class indices"),
    ],
)
def test_bad_data_is_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
):
    data = saved_data(tmp_path, **change)
    assert main(["measure", "--model", f"{build.__module__}:build", "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gengap: ")
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_unknown_model_and_predictor_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = str(saved_data(tmp_path))
    assert main(["measure", "--model", "no_such_module:build", "--data", data]) == 2
    assert "--model my_project.model:build" in capsys.readouterr().err
    assert main(["measure", "--model", "x:y", "--data", data, "--predictor", "oracle"]) == 2
    assert "one of default" in capsys.readouterr().err


def test_zoo_stages_from_recipes_to_a_predictor(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The stages as a user runs them, on a table that exists; training is tested in tests/zoo/train/test_run.py."""
    table = Path(__file__).parents[2] / "pretrained_predictors" / "small_zoo_v3.csv.gz"
    out = tmp_path / "mine.json"
    assert main(["zoo", "fit", str(table), "--name", "mine_v1", "--out", str(out), "--no-scores"]) == 0
    assert main(["predictors", str(out)]) == 0
    assert '"mine_v1"' in capsys.readouterr().out
    assert main(["zoo", "fit", str(table), "--out", str(out), "--no-scores"]) == 2
    assert "a file that exists" in capsys.readouterr().err
    assert main(["zoo", "table", str(tmp_path / "empty"), "--out", str(tmp_path / "t.csv.gz")]) == 2


def test_the_command_is_installed_and_shows_its_verbs():
    shown = subprocess.run(
        [sys.executable, "-m", "lightning_gengap", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for verb in ("demo", "predictors", "measure", "zoo"):
        assert verb in shown
