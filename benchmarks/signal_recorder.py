"""Records, epoch by epoch, what the signals of early_signals.py are computed from, and computes them at snapshots."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.run import observed_gap
from lightning_gengap.zoo.train.task import TaskData

STEPS = 2  # of each epoch whose coherence is taken
RIDGE = 1e-2  # of linear classifiers, times the mean square of the representation
TINY = 1e-12  # of a representation that is constant


class Recorder(Callback):
    """Keeps, epoch by epoch, what the signals are computed from, and computes them at the snapshots."""

    def __init__(self, inputs: Tensor, targets: Tensor, recipe: Recipe, data: TaskData) -> None:
        self.inputs, self.targets, self.recipe, self.data = inputs, targets, recipe, data
        self.copies = flipped_and_shifted(inputs, torch.Generator().manual_seed(0))
        self.order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1))
        self.predicted: list[Tensor] = []
        self.on_copies: list[Tensor] = []
        self.before: tuple[float, float] | None = None
        self.drops: list[tuple[float, float]] = []
        self.rows: list[dict[str, float]] = []
        self.initial = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The score of the untrained representation."""
        with undisturbed(pl_module):
            self.initial = _weighted_score(self._represented(pl_module, self.inputs), self._codes())

    def _codes(self) -> Tensor:
        return torch.eye(int(self.targets.max()) + 1, dtype=torch.float64)[self.targets]

    @torch.no_grad()
    def _represented(self, model: LightningModule, inputs: Tensor) -> Tensor:
        """What goes into the last layer, shape (samples, features)."""
        kept: list[Tensor] = []
        handle = _last_layer(model).register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        model(inputs)
        handle.remove()
        return (kept[0].flatten(2).mean(2) if kept[0].ndim > 2 else kept[0]).double()

    def _losses(self, model: LightningModule, batch: Any) -> tuple[float, float]:
        """On the batch itself and on as many of the monitored samples."""
        images, labels = batch
        other = self.order[: len(images)]
        with undisturbed(model), torch.no_grad():
            own = float(cross_entropy(model(images), labels))
            return own, float(cross_entropy(model(self.inputs[other]), self.targets[other]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Losses before one of the last steps."""
        late = batch_idx >= trainer.num_training_batches - STEPS
        self.before = self._losses(pl_module, batch) if late else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Losses after it."""
        if self.before is not None:
            after = self._losses(pl_module, batch)
            self.drops.append((self.before[0] - after[0], self.before[1] - after[1]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predictions on samples and copies, and at a snapshot all signals beside the gap."""
        with undisturbed(pl_module):
            with torch.no_grad():
                self.predicted.append(pl_module(self.inputs).argmax(1))
                self.on_copies.append(pl_module(self.copies).argmax(1))
            epoch = trainer.current_epoch + 1
            if epoch % self.recipe.snapshot_every == 0:
                with torch.no_grad():
                    gaps = observed_gap(pl_module, self.data, self.recipe.task.noise)
                self.rows.append({"epoch": epoch, "gap.accuracy": gaps["gap.accuracy"], **self.signals(pl_module)})

    def signals(self, model: LightningModule) -> dict[str, float]:
        """All signals so far."""
        right = torch.stack([predicted == self.targets for predicted in self.predicted])
        epochs = len(right)
        lost = right[:-1] & ~right[1:]
        first = torch.where(right.any(0), right.int().argmax(0), epochs).double()
        quarter = max(epochs // 4, 1)
        drops = np.array(self.drops[-STEPS * quarter :])
        found = {
            "forgetting/rate": float(lost.double().sum(0).mean()) / epochs,
            "forgetting/ever": float(lost.any(0).double().mean()),
            "forgetting/learned_at": float(first.mean()) / epochs,
            "churn/samples": _churn(self.predicted, quarter),
            "churn/copies": _churn(self.on_copies, quarter),
            "steps/coherence": float(drops[:, 1].sum() / max(drops[:, 0].sum(), 1e-12)),
        }
        score = _weighted_score(self._represented(model, self.inputs), self._codes())
        found |= {"representation/weighted": score, "representation/weighted_growth": score - self.initial}
        return found | self._halves(model)

    def _halves(self, model: LightningModule) -> dict[str, float]:
        parts = self.order.chunk(2)
        gradients = []
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for part in parts:
            with torch.enable_grad():
                loss = cross_entropy(model(self.inputs[part]), self.targets[part])
                gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradients.append(torch.cat([g.flatten() for g in gradient if g is not None]))
        codes, features = self._codes(), [self._represented(model, self.inputs[part]) for part in parts]
        everything = torch.cat(features)
        given = []
        for feature, part in zip(features, parts, strict=True):
            ridge = RIDGE * max(float(feature.square().sum()) / len(feature), TINY)
            kernel = feature @ feature.T + ridge * torch.eye(len(feature), dtype=torch.float64)
            centred = codes[part] - codes[part].mean(0)
            given.append((everything @ feature.T @ torch.linalg.solve(kernel, centred)).argmax(1))
        cosine = cosine_similarity(gradients[0].double(), gradients[1].double(), dim=0)
        return {
            "halves/gradients": float(cosine),
            "halves/classifiers": float((given[0] == given[1]).double().mean()),
        }


def _churn(predicted: Sequence[Tensor], last: int) -> float:
    pairs = list(pairwise(predicted))[-last:]
    return float(np.mean([float((a != b).double().mean()) for a, b in pairs])) if pairs else float("nan")


def _weighted_score(features: Tensor, codes: Tensor) -> float:
    """Leave-one-out accuracy of ridge regression with an intercept, samples weighted by one minus their leverage."""
    examples, centred = len(features), features - features.mean(0)
    kernel = centred @ centred.T
    ridge = RIDGE * max(float(kernel.trace()) / examples, TINY)
    eye = torch.eye(examples, dtype=torch.float64)
    hat = kernel @ torch.linalg.inv(kernel + ridge * eye) + 1 / examples
    left = 1 - hat.diagonal()
    predicted = codes - (codes - hat @ codes) / left[:, None]
    right = (predicted.argmax(1) == codes.argmax(1)).double()
    return float((right * left).sum() / left.sum())


def _last_layer(model: LightningModule) -> torch.nn.Module:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)][-1]
