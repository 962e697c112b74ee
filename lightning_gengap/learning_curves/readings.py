"""Accuracies that are read in a nested training: on what it is trained on, and on what it never sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_gengap.errors import DataError, LogitsError
from lightning_gengap.monitor.namespaces import Callback
from lightning_gengap.monitor.trainer_facts import place_in_training, planned_epochs
from lightning_gengap.network.logits import logits_of
from lightning_gengap.samples.batches import Forward, ProbeBatch, call_for
from lightning_gengap.samples.calling import chosen_forward
from lightning_gengap.samples.nested import handed_out
from lightning_gengap.samples.reader import CHUNK, SampleReader
from lightning_gengap.samples.source import Source
from lightning_gengap.stratified_split import Indices
from lightning_gengap.undisturbed import undisturbed

MOST_READ = 2_000  # samples of each kind after an epoch
FEWEST_TESTED = 256
READINGS = 50  # of a training, at most


@dataclass(frozen=True)
class Readable:
    """Samples that accuracies are read on.

    Attributes:
        source: reads them through a private copy.
        indices: in a stratified order, so that the first ones stand for all.
    """

    source: Source
    indices: Sequence[int] | Indices

    def chunks(self, most: float) -> list[list[int]]:
        """The indices of the first so many samples, in chunks."""
        chosen = [int(index) for index in self.indices[: int(min(most, len(self.indices)))]]
        return [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]


@dataclass
class Found:
    """What was read in one training: epochs, and the accuracies after each of them; those at its end on all samples."""

    epochs: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    whole: tuple[float, float] | None = None


class Readings(Callback):
    """Reads accuracies before the first step, after epochs and at the end of one training, which stays as it is."""

    def __init__(
        self,
        trained: Readable,
        held: Readable,
        reader: SampleReader,
        forward: Forward | None,
        after_epoch: Callable[[], None],
    ) -> None:
        super().__init__()
        self.trained, self.held, self.found = trained, held, Found()
        self._reader, self._call, self._after_epoch = reader, forward, after_epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the initial weights, where there are any yet."""
        if not any(map(is_lazy, pl_module.parameters())):
            self._read(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read after an epoch that is due."""
        epoch, planned = trainer.current_epoch + 1, planned_epochs(trainer)
        if epoch % (max(math.ceil(planned / READINGS), 1) if math.isfinite(planned) else 1) == 0:
            self._read(trainer, pl_module, epoch)
        self._after_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last epoch, where it was not due, and all samples."""
        if trainer.current_epoch not in self.found.epochs:
            self._read(trainer, pl_module, trainer.current_epoch)
        self.found.whole = (
            self._accuracy(trainer, pl_module, self.trained, math.inf),
            self._accuracy(trainer, pl_module, self.held, math.inf),
        )

    def _read(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        tested = min(max(FEWEST_TESTED, len(self.trained.indices)), MOST_READ)
        self.found.train.append(self._accuracy(trainer, module, self.trained, MOST_READ))
        self.found.test.append(self._accuracy(trainer, module, self.held, tested))
        self.found.epochs.append(epoch)

    def _accuracy(self, trainer: Trainer, module: LightningModule, readable: Readable, most: float) -> float:
        """The share of the first so many samples that the module gets right, in eval mode."""
        reader, chunks = replace(self._reader, place=place_in_training(trainer)), readable.chunks(most)
        right, count = torch.zeros((), dtype=torch.long, device=module.device), 0
        with undisturbed(module), torch.no_grad(), closing(readable.source.batches(chunks)) as read:
            for collated in read:
                batch = reader.batch(collated)
                logits = _checked(self._logits(module, batch), batch.targets)
                right += (logits.argmax(1) == batch.targets).sum().to(right.device)
                count += len(batch.targets)
        return int(right) / max(count, 1)

    def _logits(self, module: LightningModule, batch: ProbeBatch) -> Tensor:
        """The logits of a batch; how the module is called is settled on the first one."""
        examples = len(batch.targets)
        if self._call is not None:
            return logits_of(self._call(module, handed_out(batch.content)), examples)
        written = call_for(batch.content)
        self._call, logits = chosen_forward(module, batch.content, lambda output: logits_of(output, examples, written))
        return logits


def _checked(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits. Refuse those of which no accuracy can be told."""
    if logits.isnan().any():
        raise LogitsError(
            "model output", got="logits with NaN", expected="numbers", remedy="Training seems to have diverged."
        )
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= logits.shape[1]:
        raise DataError(
            "labels",
            got=f"class indices from {lowest} to {highest} for {logits.shape[1]} logits",
            expected=f"indices from 0 to {logits.shape[1] - 1}",
            remedy="Label both data sets alike.",
        )
    return logits
