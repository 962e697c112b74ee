import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.files import finished
from lightning_gengap.zoo.table import collect, read, write, write_checked
from lightning_gengap.zoo.train import model
from lightning_gengap.zoo.train import run as stage
from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.remeasure import remeasure
from tests.zoo.train.recipes import small, write_texts


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


@pytest.mark.parametrize("plan", ["tables", "texts"])
def test_runs_on_tables_and_texts_keep_weights_from_which_they_are_measured_again(plan: str, tmp_path: Path):
    write_texts(tmp_path)
    (tmp_path / "runs").mkdir()
    source = {"tables": "wine", "texts": "sst2"}[plan]
    recipe = next(one for one in planned(plan) if one.task.source == source)
    task = replace(recipe.task, train_samples=40, classes=(0, 1), noise=0.2)
    recipe = replace(recipe, task=task, epochs=2, snapshot_every=1, batch_size=8)
    assert stage.run(recipe, tmp_path, tmp_path / "runs", keep_weights=True)
    assert remeasure(tmp_path / "runs" / f"{recipe.key}.json", ["distance"], tmp_path)
    table = write_checked(collect(tmp_path / "runs"), tmp_path / "t.csv.gz")
    assert table.words("recipe.plan").tolist() == [plan, plan]
    first, second = (table.numbers(f"gap.test_accuracy_{half}_half") for half in ("first", "second"))
    tests = table.numbers("gap.test_samples")
    whole = (first * np.ceil(tests / 2) + second * np.floor(tests / 2)) / tests
    assert whole == pytest.approx(table.numbers("gap.test_accuracy"))
    clean = table.numbers("gap.clean_test_accuracy")
    assert table.numbers("gap.test_accuracy") == pytest.approx(0.8 * clean + 0.2 / 2)
    assert (table.numbers("measure.distance/frobenius") > 0).all()
    assert table.numbers("measure.train_accuracy") == pytest.approx(table.numbers("gap.train_accuracy"))
