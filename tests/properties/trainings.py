"""Trainings put together from an architecture, a form of batches and the options of a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from tests.integration.identity.twins import Condition
from tests.orders import ORDERS
from tests.properties.architectures import Architecture, architectures
from tests.properties.batches import FORMS, HELD_OUT, Collate, Samples, loader_of, trained_on

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.02),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 0.02),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01),
}
SCHEDULERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "none": lambda optimizer: {},
    "by epoch": lambda optimizer: {"lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)},
    "by step": lambda optimizer: {
        "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9), "interval": "step"}
    },
    "plateau": lambda optimizer: {
        "lr_scheduler": {
            "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
            "monitor": "loss",
        }
    },
}


@dataclass(frozen=True)
class Training:
    """Names of parts, and numbers.

    Attributes:
        manual: whether the step calls the optimizer itself.
        batches: at most so many in an epoch.
        trainer: further arguments of the Trainer.
        monitor: arguments of the monitor.
    """

    parts: Architecture = field(default_factory=Architecture)
    form: str = "pair"
    order: str = "shuffled"
    batch_size: int = 8
    drop_last: bool = False
    manual: bool = False
    optimizer: str = "SGD"
    scheduler: str = "none"
    validated: bool = False
    batches: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)

    def condition(self) -> Condition:
        """It, as the twins are trained."""
        limit = {} if self.batches is None else {"limit_train_batches": self.batches}
        return Condition(lambda: Learner(self), lambda: Loaders(self), trainer=self.trainer | limit)

    def drawn(self, samples: int) -> list[int]:
        """The indices of the monitored samples, in the order in which they are drawn."""
        indices = trained_on(self.order, self.batches, self.batch_size, self.drop_last)
        if indices is None:
            batches = -(-samples // self.batch_size)
            whole = len(Samples(self.parts)) // self.batch_size if self.drop_last else batches
            taken = min(batches, whole, batches if self.batches is None else self.batches)
            return list(range(min(taken * self.batch_size, len(Samples(self.parts)))))
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
        return [indices[i] for i in order[:samples].tolist()]


class Learner(LightningModule):
    """Trains the network of a training's architecture."""

    def __init__(self, chosen: Training) -> None:
        super().__init__()
        self.chosen, self.net = chosen, chosen.parts.build()
        self.automatic_optimization = not chosen.manual

    def forward(self, inputs: Any, scale: Tensor | None = None) -> Tensor:
        if isinstance(inputs, tuple | list):
            inputs, scale = inputs[0], inputs[1]["scale"]
        logits = self.net(inputs)
        return logits if scale is None else logits * scale[:, None]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        arguments, targets = FORMS[self.chosen.form].take(batch)
        loss = cross_entropy(self(*arguments), targets)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        if self.chosen.manual:
            optimizer = self.optimizers()
            self.manual_backward(loss)
            if batch_idx % 2 == 1:  # accumulates two batches
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        arguments, targets = FORMS[self.chosen.form].take(batch)
        right = (self(*arguments).argmax(1) == targets).float()
        self.log("val_acc", right.mean(), batch_size=len(targets))

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.chosen.optimizer](self.parameters())
        return {"optimizer": optimizer} | SCHEDULERS[self.chosen.scheduler](optimizer)


class Loaders(LightningDataModule):
    """The training's loader, and that of its validation where it has one."""

    def __init__(self, chosen: Training) -> None:
        super().__init__()
        self.chosen = chosen
        if chosen.validated:
            self.val_dataloader = self.held_out

    def train_dataloader(self) -> Any:
        chosen = self.chosen
        return loader_of(chosen.parts, chosen.form, chosen.order, chosen.batch_size, chosen.drop_last)

    def held_out(self) -> Any:
        data = Samples(self.chosen.parts, HELD_OUT, seed=1)
        collate = Collate(self.chosen.form, self.chosen.parts.time_first)
        return DataLoader(data, batch_size=5, collate_fn=collate)


@st.composite
def trainings(draw: Any) -> Training:
    """Trainings of two or three epochs."""
    parts = draw(architectures())
    manual, validated = draw(st.booleans()), draw(st.booleans())
    order = draw(st.sampled_from(list(ORDERS)))
    trainer: dict[str, Any] = {"max_epochs": draw(st.sampled_from([2, 3]))}
    if draw(st.booleans()):
        trainer["max_steps"] = draw(st.sampled_from([3, 5]))
    if not manual:
        trainer |= {"accumulate_grad_batches": draw(st.sampled_from([1, 2, 3]))}
        trainer |= draw(
            st.sampled_from(
                [{}, {"gradient_clip_val": 0.1}, {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}]
            )
        )
    trainer["precision"] = draw(st.sampled_from(["32-true", "bf16-mixed", "64-true"]))
    if validated:
        rhythms = [{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 1}]
        rhythms += [{"num_sanity_val_steps": 1}] + ([] if order == "stream" else [{"val_check_interval": 0.5}])
        trainer |= draw(st.sampled_from(rhythms))
    monitor = draw(
        st.sampled_from(
            [{}, {"every_n_epochs": 2}, {"every_n_train_steps": 1}, {"every_n_train_steps": 2}, {"budget": 0.05}]
        )
    )
    return Training(
        parts,
        draw(st.sampled_from(list(FORMS))),
        order,
        draw(st.sampled_from([4, 7, 8])),
        draw(st.booleans()),
        manual,
        draw(st.sampled_from(list(OPTIMIZERS))),
        "none" if manual else draw(st.sampled_from(list(SCHEDULERS))),
        validated,
        draw(st.sampled_from([None, None, 2, 3])),
        trainer,
        monitor | {"samples": draw(st.sampled_from([20, 64]))},
    )
