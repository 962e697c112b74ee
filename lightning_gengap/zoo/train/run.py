"""One run: train a recipe's model with Lightning under GapMonitor, and record measures and gaps at its snapshots."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_gengap import __version__
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted
from lightning_gengap.monitor.gap_monitor import GapMonitor
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.files import finished, write_whole
from lightning_gengap.zoo.train.architectures import build
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.snapshots import Weights
from lightning_gengap.zoo.train.task import TaskData, prepare

MEASURED_HERE = ("norm", "perturbation", "difficulty")  # beside margin and fit, which every monitor takes
PRETRAINING_SAMPLES, PRETRAINING_EPOCHS = 3000, 8
MONITORED = 1024  # samples, as by default
_CHUNK = 1000


class ZooModel(LightningModule):
    """A recipe's model, trained on cross-entropy."""

    def __init__(self, recipe: Recipe, channels: int) -> None:
        super().__init__()
        self.recipe = recipe
        task = recipe.task
        self.net = build(
            recipe.family,
            channels,
            task.side,
            task.outputs,
            recipe.width,
            recipe.depth,
            recipe.dropout,
            recipe.norm,
            recipe.group_norm,
        )
        self._augmentation = torch.Generator().manual_seed(recipe.seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, on augmented images where the recipe says so."""
        images, labels = batch
        if self.recipe.augment:
            images = flipped_and_shifted(images, self._augmentation)
        return cross_entropy(self(images), labels)

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer, with a cosine schedule where it says so."""
        recipe = self.recipe
        if recipe.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(self.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        if not recipe.cosine:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)]


class Snapshots(Callback):
    """Record the monitor's values beside the gap on all training samples and the test set."""

    def __init__(self, monitor: GapMonitor, data: TaskData, noise: float, kept: Weights | None = None) -> None:
        self.monitor, self.data, self.noise, self.kept = monitor, data, noise, kept
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row after each fresh measurement."""
        if int(trainer.callback_metrics["gengap/status"]) != 0:
            return
        with undisturbed(pl_module), torch.no_grad():
            gaps = observed_gap(pl_module, self.data, self.noise)
        values = {f"measure.{key}": value for key, value in self.monitor.values.items()}
        self.rows.append({"epoch": float(trainer.current_epoch + 1), **values, **gaps})
        if self.kept is not None:
            self.kept.add(trainer.current_epoch + 1, pl_module)


def observed_gap(model: torch.nn.Module, data: TaskData, noise: float) -> dict[str, float]:
    """Train minus test accuracy, and test minus train loss; test labels come from the same noisy process.

    A share `noise` of labels is uniform over the classes, so the expected noisy accuracy is
    (1 - noise) x clean accuracy + noise / classes, and likewise for the loss.
    """
    train, test = _logits(model, data.train_images), _logits(model, data.test_images)
    train_accuracy = float((train.argmax(1) == data.train_labels).double().mean())
    clean_accuracy = float((test.argmax(1) == data.test_labels).double().mean())
    uniform_loss = float(-test.log_softmax(1).mean())
    test_accuracy = (1 - noise) * clean_accuracy + noise / test.shape[1]
    test_loss = (1 - noise) * float(cross_entropy(test, data.test_labels)) + noise * uniform_loss
    train_loss = float(cross_entropy(train, data.train_labels))
    return {
        "gap.train_accuracy": train_accuracy,
        "gap.test_accuracy": test_accuracy,
        "gap.clean_test_accuracy": clean_accuracy,
        "gap.accuracy": train_accuracy - test_accuracy,
        "gap.loss": test_loss - train_loss,
        "gap.test_samples": float(len(data.test_labels)),
        **({"gap.bayes_accuracy": data.bayes_accuracy} if math.isfinite(data.bayes_accuracy) else {}),
    }


def _logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    """In double precision on the CPU, where the data are, wherever the model is."""
    device = next((parameter.device for parameter in model.parameters()), images.device)
    return torch.cat([model(chunk.to(device)).cpu() for chunk in images.split(_CHUNK)]).double()


def train(
    recipe: Recipe, directory: Path | None, kept: Weights | None = None, accelerator: str = "cpu"
) -> list[dict[str, float]]:
    """Train the recipe and return its snapshots; `kept` collects the weights before and at them."""
    data = prepare(recipe.task, directory)
    model = fresh_model(recipe, data, directory)
    monitor = GapMonitor(
        predictor=None,
        every_n_epochs=recipe.snapshot_every,
        samples=MONITORED,
        budget=None,
        measures=MEASURED_HERE,
        verbosity="quiet",
        on_error="raise",
    )
    snapshots = Snapshots(monitor, data, recipe.task.noise, kept)
    if kept is not None:
        kept.add(0, model)
    make_trainer(recipe.epochs, [monitor, snapshots], accelerator).fit(model, loader(data, recipe.batch_size))
    return snapshots.rows


def fresh_model(recipe: Recipe, data: TaskData, directory: Path | None) -> ZooModel:
    """The recipe's model before the first step; seeds all random streams, so that training follows from it."""
    seed_everything(recipe.seed, verbose=False)
    model = ZooModel(recipe, data.train_images.shape[1])
    if recipe.pretrained:
        pretrain(model, directory)
    return model


def pretrain(model: ZooModel, directory: Path | None) -> None:
    """Train all but the last layer on the classes of the source that the task leaves out.

    On the CPU whatever trains the run, so that `remeasure` gets the same initial weights from the seed.
    """
    task = model.recipe.task
    others = tuple(label for label in range(CLASS_COUNTS[task.source]) if label not in task.classes)
    easier = replace(task, classes=others[:20], train_samples=PRETRAINING_SAMPLES, noise=0.0, groups=0)
    recipe = replace(model.recipe, task=easier, augment=False, cosine=False)
    data = prepare(easier, directory)
    first = ZooModel(recipe, data.train_images.shape[1])
    make_trainer(PRETRAINING_EPOCHS, [], "cpu").fit(first, loader(data, recipe.batch_size))
    learned = first.state_dict()
    fitting = {name: learned[name] for name, own in model.state_dict().items() if learned[name].shape == own.shape}
    model.load_state_dict(fitting, strict=False)


def loader(data: TaskData, batch_size: int) -> DataLoader[Any]:
    """Shuffled batches of the training data."""
    dataset = TensorDataset(data.train_images, data.train_labels)
    batches = BatchSampler(RandomSampler(dataset), batch_size, drop_last=len(dataset) > batch_size)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def check_accelerator(name: str) -> None:
    """Refuse `gpu` where there is none.

    Raises:
        ConfigurationError: says what to use instead.
    """
    if name == "gpu" and not (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
        raise ConfigurationError(
            "--accelerator gpu",
            got="no GPU that torch can use here",
            expected="a CUDA or MPS device",
            remedy="Use --accelerator cpu, or auto for a GPU where there is one.",
        )


def make_trainer(epochs: int, callbacks: list[Callback], accelerator: str) -> Trainer:
    """What trains every run: one device, gradients clipped, nothing logged."""
    return Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,  # side by side are runs, not parts of one
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        gradient_clip_val=5.0,
    )


def run(
    recipe: Recipe, directory: Path | None, runs: Path, keep_weights: bool = False, accelerator: str = "cpu"
) -> bool:
    """Train unless `runs/<key>.json` is there and whole; True if it had to be trained.

    The file appears in one step when the run is complete, so a kill at any moment loses at most one run. The weights
    before and at the snapshots, if kept, are in `runs/<key>.npz`. The key does not depend on the accelerator.

    Raises:
        ConfigurationError: the accelerator is `gpu`, and there is none.
    """
    path = runs / f"{recipe.key}.json"
    if finished(path):
        return False
    check_accelerator(accelerator)
    torch.set_num_threads(1)
    kept = Weights() if keep_weights else None
    with silence_lightning():
        rows = train(recipe, directory, kept, accelerator)
    if kept is not None:
        kept.write(path.with_suffix(".npz"))
    content = {"version": __version__, "key": recipe.key, "recipe": asdict(recipe), "rows": rows}
    write_whole(path, json.dumps(content))
    return True
