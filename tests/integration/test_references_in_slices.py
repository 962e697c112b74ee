"""References that a training asks in slices: the training is that without a monitor, and a resumed one goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gengap import GapMonitor
from lightning_gengap.measures.agreement.asking import GROWING
from lightning_gengap.monitor import allowance
from tests.lightning_models import TinyModel, blobs, quiet_trainer

ALL, MONITORED, TICK, EPOCHS = 700, 64, 0.02, 9
pytestmark = pytest.mark.filterwarnings("ignore:.*(is absent|on these samples)")
KEY = "reference/forest_samples"


class Watch(Callback):
    """How many samples a reference is fitted on after each epoch, and whether more are to come."""

    def __init__(self, monitor: GapMonitor) -> None:
        self.monitor, self.samples, self.goes_on = monitor, list[float](), list[bool]()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.samples.append(self.monitor.values[KEY])
        kept = self.monitor.state_dict()["memory"]["warm_starts"]
        self.goes_on.append(any(key.startswith(GROWING) for key in kept))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks when it is read, so that what there is time for does not depend on the machine."""
    now = [0.0]

    def read() -> float:
        now[0] += TICK
        return now[0]

    monkeypatch.setattr(time, "perf_counter", read)
    monkeypatch.setattr(allowance, "START", 0.0)


def trained(
    *callbacks: Callback, epochs: int = EPOCHS, resume: Path | None = None, save: Path | None = None
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = TinyModel()
    data = DataLoader(blobs(ALL), batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(1))
    trainer = quiet_trainer(*callbacks, max_epochs=epochs)
    trainer.fit(model, data, ckpt_path=resume)
    if save is not None:
        trainer.save_checkpoint(save)
    return {**model.state_dict(), "next": torch.rand(3)}


def monitored() -> tuple[GapMonitor, Watch]:
    monitor = GapMonitor(None, samples=MONITORED, measures=["agreement"], seed=1)
    return monitor, Watch(monitor)


def test_training_is_untouched_while_more_and_more_samples_come_in() -> None:
    monitor, watch = monitored()
    found = trained(monitor, watch)
    for key, value in trained().items():
        assert torch.equal(found[key], value), key
    assert watch.samples == sorted(watch.samples)
    assert watch.samples[0] == MONITORED
    assert watch.samples[-1] == ALL
    assert len({*watch.samples}) > 2
    assert monitor.values["reference/share"] == 1.0
    assert watch.goes_on[0]
    assert not watch.goes_on[-1]


def test_a_resumed_training_goes_on_with_what_was_in(tmp_path: Path) -> None:
    whole, (monitor, watch) = monitored(), monitored()
    trained(*whole)
    trained(monitor, watch, epochs=3, save=tmp_path / "third")
    assert watch.goes_on[-1]
    monitor, resumed = monitored()
    trained(monitor, resumed, resume=tmp_path / "third")
    assert resumed.samples[0] >= watch.samples[-1]
    assert not resumed.goes_on[-1]
    for key, value in whole[0].values.items():
        if key.startswith("reference/"):
            assert monitor.values[key] == pytest.approx(value), key
