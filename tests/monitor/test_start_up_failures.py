"""A start that cannot be measured is said once; training goes on unchanged, and what was missed is made up for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapEarlyStopping
from lightning_gengap.errors import DataError, GapError, LogitsError, MeasureError
from tests.each_data import each_data
from tests.lightning_models import EpochValues, TinyModel, blobs, fitted, loader, quiet_trainer, watched
from tests.tiny_predictors import ALWAYS, tiny_monitor


class Starts(TinyModel):
    """Its forwards in eval mode are spoiled until this step: the monitor would restore a count of them."""

    def __init__(self, until: int, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.until, self.spoil = until, spoil

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return super().forward(images)
        spoiled = self.trainer.global_step < self.until
        return self.spoil(super().forward(images)) if spoiled else super().forward(images)


def no_memory(logits: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


SPOILED: dict[str, tuple[Callable[[Tensor], Tensor], type[GapError], str]] = {
    "memory": (no_memory, MeasureError, "the first forward in eval mode: got OutOfMemoryError: CUDA out of memory"),
    "NaN": (lambda logits: logits * torch.nan, LogitsError, "with NaN or infinity; expected finite logits"),
    "infinity": (lambda logits: logits + torch.inf, LogitsError, "with NaN or infinity; expected finite logits"),
}
each_kind = pytest.mark.parametrize("kind", SPOILED)


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    weights, others = model.state_dict(), other.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def trained_as_alone(model: TinyModel, alone: TinyModel, *callbacks: Any, data: Any) -> tuple[EpochValues, list[str]]:
    """Values and warnings of five epochs, which end where those without callbacks end."""
    values, said = watched(*callbacks, model=model, data=data, max_epochs=5)
    fitted(model=alone, data=data, max_epochs=5)
    assert same_weights(model, alone)
    return values, said


@each_data
@each_kind
def test_a_start_that_fails_is_said_once_and_training_is_unchanged(kind: str, data: Callable[[], Any]):
    spoil, _, words = SPOILED[kind]
    torch.manual_seed(1)
    model = Starts(10**9, spoil)
    alone = copy.deepcopy(model)
    early = GapEarlyStopping(patience=1, max_gap=0.01)
    values, said = trained_as_alone(model, alone, tiny_monitor(), early, data=data())
    assert values("gengap/status") == [2, 2, 2, 4, 4]
    assert early.reason is None
    assert all({key for key in row if key.startswith("gengap/")} == ALWAYS for row in values.rows)
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    (message,) = said
    assert words in message
    assert "could not measure before the first step: " in message


@each_data
@each_kind
def test_a_start_that_fails_is_made_up_for(kind: str, data: Callable[[], Any]):
    torch.manual_seed(1)
    model = Starts(1, SPOILED[kind][0])
    other = copy.deepcopy(model)
    values, said = watched(tiny_monitor(), model=model, data=data())
    other.until = 0
    expected = fitted(tiny_monitor(), model=other, data=data())
    assert len(said) == 1
    for now, then in zip(values.rows, expected.rows, strict=True):
        assert now | {"gengap/overhead": 0.0} == then | {"gengap/overhead": 0.0}
    assert values("gengap/in_support") == [1, 1]
    assert same_weights(model, other)


def test_one_class_is_said_once_and_training_is_unchanged():
    data = DataLoader(TensorDataset(blobs().tensors[0], torch.zeros(64, dtype=torch.long)), batch_size=16)
    model = TinyModel()
    values, said = trained_as_alone(model, copy.deepcopy(model), tiny_monitor(), data=data)
    assert values("gengap/status") == [2, 2, 2, 4, 4]
    (message,) = said
    assert "64 samples, all of class 0; expected two classes or more" in message
    with pytest.raises(DataError, match="all of class 0; expected two classes or more"):
        fitted(tiny_monitor(on_error="raise"), data=data)


def test_samples_that_do_not_fit_into_memory_are_said_once():
    class Crowded(TinyModel):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch if len(batch[0]) <= 16 else no_memory(batch[0])

    values, said = watched(tiny_monitor(), model=Crowded())
    assert values("gengap/status") == [2, 2]
    assert len(said) == 1
    assert "reading the training samples: got OutOfMemoryError" in said[0]


@pytest.mark.parametrize("last", [4, 5])  # four forwards find the call, layers and classes, the fifth measures
def test_memory_that_is_missed_after_the_first_forward_is_no_error_either(last: int):
    counted: SimpleQueue[int] = SimpleQueue()  # which the guard does not restore

    class Later(TinyModel):
        def forward(self, images: Tensor) -> Tensor:
            if not self.training and self is model:  # the rehearsal measures a copy
                counted.put(1)
                if counted.qsize() == last:
                    return no_memory(images)
            return super().forward(images)

    model = Later()
    values, said = watched(tiny_monitor(), model=model)
    assert values("gengap/status") == [0, 0]
    assert len(said) == 1
    assert "could not measure before the first step: MeasureError: " in said[0]
    assert "out of memory" in said[0]


@each_data
@each_kind
def test_on_error_raise_raises_what_fails_at_the_start(kind: str, data: Callable[[], Any]):
    spoil, error, words = SPOILED[kind]
    trainer = quiet_trainer(tiny_monitor(on_error="raise"))
    with pytest.raises(error, match=words):
        trainer.fit(Starts(10**9, spoil), data())
    assert trainer.global_step == 0


def pretrained(spoiled: int) -> TinyModel:
    model = Starts(spoiled, no_memory)
    fitted(model=model, max_epochs=4)
    return model


@each_data
def test_initial_weights_that_know_the_task_are_noticed_later_too(data: Callable[[], Any]):
    for spoiled in (0, 1):
        model = pretrained(0)
        model.until = spoiled
        monitor = tiny_monitor()
        watched(monitor, model=model, data=data(), max_epochs=1)
        assert monitor.prediction.outside == ("initial_weights",)


class Validated(Starts):
    """Its validation needs no forward."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", 0.5)


def test_a_validation_without_a_measurement_has_no_actual_gap():
    values, said = watched(tiny_monitor(), model=Validated(5, no_memory), validate=True, max_epochs=3)
    assert len(said) == 1
    assert values("gengap/status") == [2, 0, 0]
    assert ["gengap/actual_gap" in row for row in values.rows] == [False, True, True]


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_fit_goes_on_after_one_that_could_not_be_measured():
    monitor, model = tiny_monitor(), Starts(10**9, no_memory)
    trainer = quiet_trainer(monitor, max_epochs=1)
    with pytest.warns(UserWarning, match="could not measure before the first step"):
        trainer.fit(model, loader())
    assert monitor.values == {}
    model.until, trainer.fit_loop.max_epochs = 0, 3
    trainer.fit(model, loader())
    assert monitor.prediction.outside == ()
    assert trainer.callback_metrics["gengap/status"] == 0


@pytest.mark.parametrize("validate", [False, True])
def test_whoever_reads_our_keys_finds_a_value_where_nothing_could_be_measured(tmp_path: Path, validate: bool):
    class Scheduled(Validated):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "gengap/train_loss"}}

    stopping = EarlyStopping("gengap/predicted_gap", patience=9)
    checkpoint = ModelCheckpoint(tmp_path, monitor="gengap/predicted_gap", save_on_train_epoch_end=True)
    callbacks = (stopping, checkpoint, tiny_monitor(), GapEarlyStopping(patience=1))
    arguments = {"model": Scheduled(10**9, no_memory), "validate": validate, "enable_checkpointing": True}
    values, said = watched(*callbacks, **arguments)
    assert values("gengap/status") == [2, 2]
    assert values("gengap/predicted_gap") == [1, 1]
    assert "GapMonitor could not measure before the first step" in said[0]
