import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.files import finished
from lightning_gengap.zoo.table import collect, read, write
from lightning_gengap.zoo.train import model
from lightning_gengap.zoo.train import run as stage
from lightning_gengap.zoo.train.observed_gap import observed_gap
from lightning_gengap.zoo.train.task import TaskData
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


def test_gaps_are_taken_where_the_model_is():
    """A device of no arithmetic stands for a GPU: what does not follow the model there fails."""
    images, labels = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    seen = []

    class Elsewhere(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs.device.type)
            return torch.zeros(len(inputs), 2)

    gap = observed_gap(Elsewhere(4, 2, device="meta"), TaskData(images, labels, images, labels), 0.0)
    assert seen == ["meta", "meta"]
    assert gap["gap.accuracy"] == 0


def test_no_gpu_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in (stage.CUDAAccelerator, stage.MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"--accelerator gpu: got no GPU .* Use --accelerator cpu"):
        stage.run(small(), None, tmp_path, accelerator="gpu")
    assert not list(tmp_path.iterdir())


def test_same_recipe_gives_the_same_rows(tmp_path: Path):
    assert stage.train(small(1), None) == stage.train(small(1), None)


def test_expected_noisy_accuracy_agrees_with_really_corrupted_test_labels():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, 20_000))
    logits = torch.nn.functional.one_hot(labels, 4) * 2.0 + torch.from_numpy(rng.normal(size=(20_000, 4)))
    data = TaskData(logits.float(), labels, logits.float(), labels)
    noise = 0.4
    redrawn = torch.from_numpy(rng.random(20_000) < noise)
    noisy = torch.where(redrawn, torch.from_numpy(rng.integers(0, 4, 20_000)), labels)
    gap = observed_gap(torch.nn.Identity(), data, noise)
    actual = (logits.argmax(1) == noisy).double().mean().item()
    assert gap["gap.test_accuracy"] == pytest.approx(actual, abs=0.015)
    loss = torch.nn.functional.cross_entropy(logits.float(), noisy).item()
    assert gap["gap.loss"] + torch.nn.functional.cross_entropy(logits.float(), labels).item() == pytest.approx(
        loss, abs=0.03
    )


def test_a_pretrained_start_keeps_all_but_the_last_layer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "PRETRAINING_EPOCHS", 2)
    monkeypatch.setattr(model, "PRETRAINING_SAMPLES", 200)
    task = replace(small().task, classes=(0, 1, 2, 3), train_samples=100)
    recipe = replace(small(), task=task, family="cnn", pretrained=True)
    fresh, started = model.ZooModel(recipe, 1), model.ZooModel(recipe, 1)
    started.load_state_dict(fresh.state_dict())
    model.pretrain(started, None)
    same = {name: torch.equal(fresh.state_dict()[name], value) for name, value in started.named_parameters()}
    *body, _, _ = same  # names of the last layer's weight and bias come last
    assert not any(same[name] for name in body if name.endswith("weight"))
    assert all(same[name] for name in list(same)[-2:])
