"""Nested trainings: what they reach, that they change nothing around them, and that they can go on."""

from __future__ import annotations

import copy
import importlib
import json
import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ModelSummary, TQDMProgressBar
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_gengap import learning_curve
from lightning_gengap.errors import ConfigurationError, PartError
from lightning_gengap.stratified_split import stratified_order
from tests.learning_curves.tiny_curves import SAMPLES, TRAINER, tiny_curve, tiny_module
from tests.lightning_models import ManualModel, TinyModel, ValidatedModel, blobs, quiet_trainer, validation_loader

LABELS = blobs(SAMPLES).tensors[1].numpy()


def states(module: LightningModule) -> list[Any]:
    """Weights, modes, random streams and settings, in a form that can be compared."""
    return [
        {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        [part.training for part in module.modules()],
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        dict(os.environ),
        signal.getsignal(signal.SIGINT),
        list(warnings.filters),
    ]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_around_the_trainings_changes(mode: Any):
    module = tiny_module()
    module.frozen.eval()
    with mode():
        before = states(module)
        curve = tiny_curve(module, trainer={**TRAINER, "deterministic": True, "benchmark": True})
        assert states(module) == before
    assert module._trainer is None
    assert [part.samples for part in curve.parts] == [40, 80]


def test_a_part_is_what_a_training_by_hand_gives():
    module = TinyModel()
    part = tiny_curve(copy.deepcopy(module), fractions=[0.25], seed=3).parts[0]
    seed_everything(3, verbose=False)
    order = stratified_order(LABELS, 3)
    trained, held = ([int(index) for index in indices] for indices in (order[:40], order[40:]))
    quiet_trainer().fit(module, DataLoader(Subset(blobs(SAMPLES), trained), batch_size=16, shuffle=True))
    module.eval()
    images, labels = blobs(SAMPLES).tensors
    right = module(images).argmax(1) == labels
    assert part.train_accuracy == pytest.approx(float(right[trained].float().mean()))
    assert part.test_accuracy == pytest.approx(float(right[held].float().mean()))
    assert (part.tested, part.epochs) == (120, (0, 1, 2))
    assert part.train_accuracies[-1] == part.train_accuracy
    assert part.test_accuracies[-1] == part.test_accuracy
    assert part.test_accuracy > part.test_accuracies[0]


def test_the_same_seed_gives_the_same_parts_and_another_seed_others():
    module = TinyModel()

    def found(seed: int) -> list[Any]:
        torch.rand(3)
        return [(part.train_accuracies, part.test_accuracies) for part in tiny_curve(module, seed=seed).parts]

    assert found(1) == found(1) != found(2)


def test_data_of_its_own_are_tested_on_and_then_all_samples_may_be_trained_on():
    curve = tiny_curve(fractions=[0.5, 1], test=blobs(70, seed=1))
    assert [(part.samples, part.tested) for part in curve.parts] == [(80, 70), (160, 70)]


class Noisy(Dataset[Any]):
    """Images that no network learns from, as an augmentation might make them; it draws by a generator of its own."""

    def __init__(self) -> None:
        self.images, self.targets = blobs(SAMPLES).tensors
        self.generator, self.reads = torch.Generator(), 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return 1e-9 * torch.randn(1, 6, 6, generator=self.generator), self.targets[index]


def test_accuracies_are_read_on_the_plain_samples_and_the_data_set_keeps_no_trace():
    dataset = Noisy()
    shuffling = torch.Generator()
    before = dataset.generator.get_state(), shuffling.get_state()
    loader = {"generator": shuffling}
    plain = tiny_curve(dataset=dataset, probe_data=blobs(SAMPLES), fractions=[0.5], loader=loader).parts[0]
    assert torch.equal(dataset.generator.get_state(), before[0])
    assert torch.equal(shuffling.get_state(), before[1])
    assert dataset.reads == 0
    augmented = tiny_curve(dataset=dataset, fractions=[0.5]).parts[0]
    assert len(set(augmented.test_accuracies[1:])) == 1  # chance
    assert plain.test_accuracies != augmented.test_accuracies
    with pytest.raises(ConfigurationError, match=r"probe_data=\): got 20 samples; expected the 160"):
        tiny_curve(dataset=dataset, probe_data=blobs(20))


def test_manual_optimisation_callbacks_and_validation_come_as_they_are():
    class Counts(Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.epochs += 1
            assert self.epochs == trainer.current_epoch + 1, "a callback that was used before"

    counts = Counts()
    trainer = {**TRAINER, "callbacks": [counts]}
    assert tiny_curve(ManualModel(), trainer=trainer).parts[1].epochs == (0, 1, 2)
    assert counts.epochs == 0
    tiny_curve(ValidatedModel(), trainer={**trainer, "callbacks": counts}, validation=validation_loader())


def test_nothing_is_logged_or_written_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown = [ModelCheckpoint(tmp_path / "mine"), LearningRateMonitor(), TQDMProgressBar(), ModelSummary()]
    tiny_curve(trainer={**TRAINER, "callbacks": shown})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_epochs", [True, False])
def test_a_training_that_ends_early_is_read_at_its_end(by_epochs: bool):
    class Stops(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 60

    planned = {"max_epochs": 120} if by_epochs else {"max_epochs": -1, "max_steps": 3 * 120}
    part = tiny_curve(fractions=[0.25], trainer={**TRAINER, **planned, "callbacks": [Stops()]}).parts[0]
    assert part.epochs[:3] == (0, 3, 6)
    assert part.epochs[-2:] == (60, 61)
    assert part.test_accuracies[-1] == part.test_accuracy


def test_no_batch_holds_one_sample_alone():
    assert tiny_curve(fractions=[41 / 160], batch_size=20).parts[0].samples == 40
    assert tiny_curve(fractions=[41 / 160], batch_size=20, loader={"drop_last": True}).parts[0].samples == 41


class Failing(TinyModel):
    """Fails in trainings on more than 60 samples, in whatever way it is told."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error: list[BaseException] = [] if error is None else [error]

    def on_train_epoch_end(self) -> None:
        if self.error and len(self.trainer.train_dataloader.dataset) > 60:
            raise self.error[0]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError("too hot"), PartError, "training on 80 samples: got RuntimeError: too hot.; expected a training"),
        (KeyboardInterrupt(), KeyboardInterrupt, "in the training on 80 samples"),
        (SystemExit(3), SystemExit, "3"),
    ],
)
def test_what_is_finished_is_not_trained_again(tmp_path: Path, error: BaseException, raised: type, message: str):
    module = Failing(error)
    torch.manual_seed(0)
    before = states(module)
    with pytest.raises(raised, match=message):
        tiny_curve(module, out=tmp_path / "curve")
    assert states(module) == before
    assert [path.name for path in (tmp_path / "curve").iterdir()] == ["part_40.json"]
    written = (tmp_path / "curve" / "part_40.json").read_bytes()
    module.error = []
    curve = tiny_curve(module, out=tmp_path / "curve")
    assert (tmp_path / "curve" / "part_40.json").read_bytes() == written
    assert [part.samples for part in curve.parts] == [40, 80]
    assert curve.parts[0].seconds == json.loads(written)["part"]["seconds"]
    again = tiny_curve(module, out=str(tmp_path / "curve"))
    assert again == curve


def test_parts_of_another_recipe_or_data_set_are_refused(tmp_path: Path):
    tiny_curve(out=tmp_path, fractions=[0.25])
    same = {"out": tmp_path, "fractions": [0.25]}
    for arguments, difference in (
        ({"module": TinyModel(0.5)}, r"hyperparameter learning_rate \(0.02 instead of 0.5\)"),
        ({"module": ManualModel()}, "module "),
        ({"dataset": blobs(SAMPLES, seed=5)}, "inputs"),
        ({"batch_size": 8}, r"argument batch_size \(16 instead of 8\)"),
        ({"seed": 1}, "argument seed"),
        ({"trainer": {**TRAINER, "max_epochs": 3}}, r"argument max_epochs \(2 instead of 3\)"),
        ({"test": blobs(30, seed=1)}, "argument tested on"),
    ):
        with pytest.raises(ConfigurationError, match=rf"got part_40.json of another training: other {difference}"):
            tiny_curve(**(same | arguments))
    tiny_curve(**same, trainer={**TRAINER, "default_root_dir": str(tmp_path)})  # which changes nothing


def test_it_is_refused_inside_a_fit():
    class Calls(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            tiny_curve(TinyModel())

    with pytest.raises(ConfigurationError, match="got a call inside a running fit"):
        quiet_trainer(Calls()).fit(TinyModel(), DataLoader(blobs(), batch_size=16))


def test_weights_that_know_the_data_are_refused_or_said():
    module = TinyModel()
    quiet_trainer(max_epochs=6).fit(module, DataLoader(blobs(SAMPLES), batch_size=16))
    with pytest.raises(ConfigurationError, match="got a TinyModel that a Trainer has trained"):
        tiny_curve(module)
    again = TinyModel()
    again.load_state_dict(module.state_dict())
    with pytest.warns(
        UserWarning, match=r"the initial weights have an accuracy of (0\.[6-9]\d|1\.00) on what is tested"
    ):
        tiny_curve(again)


def test_what_cannot_be_copied_is_refused_with_the_reason():
    module = TinyModel()
    module.batches = (batch for batch in ())
    with pytest.raises(ConfigurationError, match="that cannot be copied: TypeError: cannot pickle 'generator' object"):
        tiny_curve(module)
    held = Callback()
    held.batches = (batch for batch in ())
    with pytest.raises(ConfigurationError, match=r"learning_curve\(trainer=\): got TypeError: cannot pickle"):
        tiny_curve(trainer={**TRAINER, "callbacks": [held]})


def test_the_module_of_the_other_package_has_its_trainer():
    other = importlib.import_module("pytorch_lightning")

    class Linear(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            assert isinstance(self.trainer, other.Trainer)
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.01)

    assert tiny_curve(Linear()).parts[1].test_accuracy > 0.5


def test_unusual_batches_have_a_forward_and_a_target():
    images, labels = blobs(SAMPLES).tensors

    class Swapped(TinyModel):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step((batch[1], batch[0]), batch_idx)

    part = tiny_curve(
        Swapped(),
        TensorDataset(labels, images),
        labels=labels,
        forward=lambda module, batch: module(batch[1]),
        target=lambda batch: batch[0],
        fractions=[0.5],
    ).parts[0]
    assert part.test_accuracy > 0.5


def test_the_public_name_is_the_function_whatever_was_imported_before():
    importlib.import_module("lightning_gengap.learning_curves.learning_curve")
    assert callable(importlib.import_module("lightning_gengap").learning_curve)
    assert callable(learning_curve)
