"""The model of a recipe as a LightningModule, its data loader, and the Trainer that all runs use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted
from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.shape import Shape
from lightning_gengap.zoo.train.task import TaskData, prepare

PRETRAINING_SAMPLES, PRETRAINING_EPOCHS, PRETRAINING_CLASSES = 3000, 8, 20


class ZooModel(LightningModule):
    """A recipe's model for images of so many channels, or so many features or words, trained on cross-entropy."""

    def __init__(self, recipe: Recipe, channels: int, vocabulary: int = 0) -> None:
        super().__init__()
        self.recipe = recipe
        task = recipe.task
        hyperparameters = (recipe.width, recipe.depth, recipe.dropout, recipe.norm, recipe.group_norm)
        shape = Shape(channels, task.side, task.outputs, *hyperparameters, vocabulary)
        self.net = ARCHITECTURES[recipe.family].build(shape)
        self._augmentation = torch.Generator().manual_seed(recipe.seed)
        self._mixing = np.random.default_rng(recipe.seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, on flipped and shifted images if the recipe augments, on mixed ones if it mixes."""
        images, labels = batch
        if self.recipe.augment:
            images = flipped_and_shifted(images, self._augmentation)
        loss = partial(cross_entropy, label_smoothing=self.recipe.label_smoothing)
        if not self.recipe.mixup:
            return loss(self(images), labels)
        share = self._mixing.beta(self.recipe.mixup, self.recipe.mixup)
        others = torch.from_numpy(self._mixing.permutation(len(labels))).to(labels.device)
        logits = self(share * images + (1 - share) * images[others])
        return share * loss(logits, labels) + (1 - share) * loss(logits, labels[others])

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer, with a cosine schedule if the recipe has one."""
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


def fresh_model(recipe: Recipe, data: TaskData, directory: Path | None) -> ZooModel:
    """The recipe's model before the first step. It seeds all random streams, and so determines the training."""
    seed_everything(recipe.seed, verbose=False)
    model = ZooModel(recipe, data.train_images.shape[1], data.vocabulary)
    if recipe.pretrained:
        pretrain(model, directory)
    return model


def pretrain(model: ZooModel, directory: Path | None) -> None:
    """Train all but the last layer on classes of the source that the task leaves out.

    It runs on the CPU whatever trains the run, so that the seed gives `remeasure` the same initial weights.
    """
    task = model.recipe.task
    others = tuple(label for label in range(CLASS_COUNTS[task.source]) if label not in task.classes)
    classes = others[:PRETRAINING_CLASSES]
    other_task = replace(task, classes=classes, train_samples=PRETRAINING_SAMPLES, noise=0.0, groups=0)
    recipe = replace(model.recipe, task=other_task, augment=False, cosine=False)
    data = prepare(other_task, directory)
    other_model = ZooModel(recipe, data.train_images.shape[1])
    make_trainer(PRETRAINING_EPOCHS, [], "cpu").fit(other_model, loader(data, recipe.batch_size))
    learned = other_model.state_dict()
    fitting = {name: learned[name] for name, own in model.state_dict().items() if learned[name].shape == own.shape}
    model.load_state_dict(fitting, strict=False)


def loader(data: TaskData, batch_size: int) -> DataLoader[Any]:
    """Shuffled batches of the training data."""
    dataset = TensorDataset(data.train_images, data.train_labels)
    batches = BatchSampler(RandomSampler(dataset), batch_size, drop_last=len(dataset) > batch_size)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def make_trainer(epochs: int, callbacks: list[Callback], accelerator: str) -> Trainer:
    """The Trainer of every run: one device, clipped gradients, nothing logged."""
    return Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,  # runs go side by side, not the parts of one
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        gradient_clip_val=5.0,
    )
