"""A training of an odd network: what is undefined is skipped, said once, and disturbs nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measures import MEASURES
from lightning_gengap.monitor.readout import Status
from tests.lightning_models import watched
from tests.tiny_predictors import tiny_monitor


class OddTask(LightningModule):
    """Frozen, shared, doubly named, idle and integer parameters in one network, trained without weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.head = nn.Linear(36, 8), nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 4)
        self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.alias, self.teacher = self.head, nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.tensor(2), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.frozen(torch.relu(self.first(images.flatten(1) + 0.1 * self.shift))))
        return self.alias(torch.relu(self.third(torch.relu(self.second(hidden)))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05, momentum=0.9)


class ComplexTask(OddTask):
    """A learned filter in Fourier space in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter, s=(6, 6)))


class CrowdedTask(OddTask):
    """Memory for four forwards of a measurement, not for more."""

    left = 1000

    def forward(self, images: Tensor) -> Tensor:
        self.left = 4 if self.training else self.left - 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


def after_training(kind: type[OddTask], *callbacks: Any) -> tuple[dict[str, Tensor], list[dict[str, float]], list[str]]:
    """The weights after two epochs, what was logged in each, and what the monitor warned of."""
    torch.manual_seed(0)
    model = kind()
    values, said = watched(*callbacks, model=model, max_epochs=2)
    return model.state_dict(), values.rows, said


@pytest.mark.parametrize("kind", [OddTask, ComplexTask, CrowdedTask])
def test_in_training_what_is_undefined_is_skipped_and_said_once(kind: type[OddTask]) -> None:
    cheap = [name for name, entry in MEASURES.items() if entry.forwards < 50 or kind is CrowdedTask]
    weights, rows, said = after_training(kind, tiny_monitor(samples=20, measures=cheap))
    alone, _, _ = after_training(kind)
    assert weights.keys() == alone.keys()
    assert all(torch.equal(weights[name], alone[name]) for name in alone)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["gengap/status"] in (Status.FRESH, Status.ABSTAINING) for row in rows), "not held"
    assert "gengap/margin/output/median" in rows[-1]
    subjects = [message.partition(":")[0] + message.partition(":")[2].partition(" is absent")[0] for message in said]
    assert len(subjects) == len(set(subjects))
    if kind is ComplexTask:
        assert any("gradient_noise/*" in message and "'filter' is complex" in message for message in said)
    if kind is CrowdedTask:
        failed = [message for message in said if "could not measure perturbation in epoch 0" in message]
        assert len(failed) == 1
        assert "measure 'perturbation': got OutOfMemoryError: CUDA out of memory." in failed[0]
