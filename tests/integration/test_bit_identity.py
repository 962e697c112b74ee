"""Training with the monitor ends bit for bit where training without it ends. Nothing here restores a random stream."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.each_data import each_data
from tests.lightning_models import (
    EXAMPLES,
    ManualModel,
    MemoryLogger,
    TinyModel,
    ValidatedModel,
    blobs,
    careless,
    loader,
    put_measure,
    quiet_trainer,
    stream,
    validation_loader,
)
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures

Outcome = dict[str, Any]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """The blobs under augmentation from all three global random streams."""

    def __init__(self) -> None:
        self.images, self.targets = blobs().tensors

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(1) + float(np.random.rand()) + random.random()
        return self.images[index] + 0.1 * noise, self.targets[index]


def trained(
    callbacks: list[Callback],
    model: Callable[[], LightningModule] = TinyModel,
    data: Callable[[], Any] = loader,
    validation: Callable[[], Any] | None = None,
    **arguments: Any,
) -> Outcome:
    """Everything that training leaves behind."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    module, logger = model(), MemoryLogger()
    trainer = quiet_trainer(*callbacks, logger=logger, **arguments)
    trainer.fit(module, data(), validation() if validation else None)
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "steps": trainer.global_step,
        "metrics": [(step, {k: v for k, v in row.items() if not k.startswith("gengap")}) for step, row in logger.rows],
    }


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested containers, with its path."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from leaves(value, f"{name}.{number}")
    else:
        yield name, content


def differences(one: Outcome, other: Outcome) -> list[str]:
    """Paths of whatever is not the same to the last bit."""
    first, second = dict(leaves(one)), dict(leaves(other))
    return [name for name in first.keys() | second.keys() if not same(first.get(name), second.get(name))]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)


def without_empty_rows(outcome: Outcome) -> Outcome:
    """Rows that held the monitor's keys alone are no metric of the user's."""
    return outcome | {"metrics": [row for row in outcome["metrics"] if set(row[1]) - {"epoch"}]}


def assert_identical(*callbacks: Callback, **arguments: Any) -> None:
    plain, watched = trained([], **arguments), trained(list(callbacks), **arguments)
    assert differences(without_empty_rows(plain), without_empty_rows(watched)) == []


def partly_compiled() -> TinyModel:
    """Hooks and derivatives must not pass its compiled part."""
    model = TinyModel()
    model.body.compile(backend="eager")
    return model


CASES: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "accumulated": {"accumulate_grad_batches": 3},
    "workers": {"data": lambda: loader(num_workers=2)},
    "persistent workers": {"data": lambda: loader(num_workers=2, persistent_workers=True)},
    "own generator": {"data": lambda: loader(generator=torch.Generator().manual_seed(5))},
    "manual optimisation": {"model": ManualModel},
    "stream": {"data": stream},
    "augmented": {"data": lambda: DataLoader(Noisy(), batch_size=16, shuffle=True)},
    "augmented in workers": {"data": lambda: DataLoader(Noisy(), batch_size=16, shuffle=True, num_workers=2)},
    "validation in mid-epoch": {"model": ValidatedModel, "validation": validation_loader, "val_check_interval": 0.5},
    "sanity check": {"model": ValidatedModel, "validation": validation_loader, "num_sanity_val_steps": 2},
    "clipped": {"gradient_clip_val": 0.1},
    "compiled": {"model": partly_compiled},
    "mid-epoch end": {"max_steps": 6, "max_epochs": 5},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:GapMonitor reads different inputs")
def test_training_is_bit_identical(case: str):
    assert_identical(tiny_monitor(), **CASES[case])


@each_data
def test_training_is_bit_identical_with_every_measure(data: Callable[[], Any]):
    assert_identical(tiny_monitor(verbosity="full"), data=data, accumulate_grad_batches=3)


@pytest.mark.parametrize("once", [False, True], ids=["each epoch", "before the first step"])
@pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
def test_training_is_bit_identical_when_a_measure_fails(monkeypatch: pytest.MonkeyPatch, once: bool):
    put_measure(monkeypatch, "norm", careless(), per_training=once)
    assert_identical(tiny_monitor(measures=["norm"]), max_epochs=5, accumulate_grad_batches=3)


def test_training_is_bit_identical_with_probe_data_from_a_shuffling_loader():
    assert_identical(tiny_monitor(probe_data=loader()))


def test_training_is_bit_identical_where_the_data_set_owns_a_generator():
    """No guard can know a generator that the data set hides: it is read through a copy."""

    class Hidden(Noisy):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return self.images[index] + torch.rand(1, generator=self.generator), self.targets[index]

    def data() -> DataLoader[Any]:
        return DataLoader(Hidden(), batch_size=16)

    with pytest.warns(UserWarning, match="reads different inputs"):
        assert_identical(tiny_monitor(), data=data)
    assert_identical(tiny_monitor(probe_data=blobs()), data=data)


class Disturbing(Callback):
    """What a careless monitor does."""

    def __init__(self, disturb: Callable[[Trainer, LightningModule], object]) -> None:
        self.disturb = disturb

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.disturb(trainer, pl_module)


def forward_in_train_mode(trainer: Trainer, module: LightningModule) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        module(torch.zeros(4, 1, 6, 6))


def evaluate_and_train(trainer: Trainer, module: nn.Module) -> None:
    module.eval()
    module.train()


DISTURBANCES: dict[str, Callable[[Trainer, LightningModule], object]] = {
    "draws from torch": lambda trainer, module: torch.rand(1),
    "draws from numpy": lambda trainer, module: np.random.rand(),
    "draws from python": lambda trainer, module: random.random(),
    "iterates the loader": lambda trainer, module: next(iter(trainer.train_dataloader)),
    "forward in train mode": forward_in_train_mode,
    "eval and train": evaluate_and_train,
}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_the_comparison_sees_a_disturbance(name: str):
    assert differences(trained([]), trained([Disturbing(DISTURBANCES[name])]))
