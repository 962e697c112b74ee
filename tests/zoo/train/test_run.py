import json
from pathlib import Path

import pytest

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.files import finished
from lightning_gengap.zoo.table import collect, read, write
from lightning_gengap.zoo.train import model
from lightning_gengap.zoo.train import run as stage
from tests.zoo.train.recipes import small


def test_run_writes_snapshots_with_measures_and_gaps_and_is_not_repeated(tmp_path: Path):
    assert stage.run(small(), None, tmp_path)
    assert not stage.run(small(), None, tmp_path)
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 4]
    for row in rows:
        assert row["gap.accuracy"] == pytest.approx(row["gap.train_accuracy"] - row["gap.test_accuracy"])
        assert row["measure.train_accuracy"] == pytest.approx(row["gap.train_accuracy"])  # all 120 are monitored
        assert 0 <= row["measure.difficulty/ridge_accuracy"] <= 1
    write(collect(tmp_path), tmp_path / "t.csv.gz")
    assert len(read(tmp_path / "t.csv.gz")) == 3


def test_half_written_run_is_recognised_and_repeated(tmp_path: Path):
    path = tmp_path / f"{small().key}.json"
    path.write_text('{"rows": [{"epo')
    assert stage.run(small(), None, tmp_path)
    assert finished(path)


def test_what_trains_is_chosen_and_leaves_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert stage.run(small(), None, tmp_path, accelerator="auto")
    assert not stage.run(small(), None, tmp_path, accelerator="cpu")
    chosen = []
    monkeypatch.setattr(model, "Trainer", lambda **settings: chosen.append(settings))
    model.make_trainer(1, [], "auto")
    assert [(settings["accelerator"], settings["devices"]) for settings in chosen] == [("auto", 1)]


def test_no_gpu_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in (stage.CUDAAccelerator, stage.MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"--accelerator gpu: got no GPU .* Use --accelerator cpu"):
        stage.run(small(), None, tmp_path, accelerator="gpu")
    assert not list(tmp_path.iterdir())


def test_same_recipe_gives_the_same_rows(tmp_path: Path):
    assert stage.train(small(1), None) == stage.train(small(1), None)
