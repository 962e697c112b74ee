"""One of two gloo processes: trains under DDP in several settings and writes what its rank saw."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.measure import Measure
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe
from tests.lightning_models import (
    CLASSES,
    EpochValues,
    Stepping,
    TinyModel,
    blobs,
    careless,
    loader,
    quiet_trainer,
    stream,
)
from tests.namespaces import FIRST, OTHER, fit
from tests.streams import Stream
from tests.tiny_predictors import tiny_monitor, tiny_predictor

NEEDING_NORM = tiny_predictor(measures=("difficulty", "norm"))
RANK = int(os.environ["LOCAL_RANK"])


def rank_stream() -> Stream:
    """Every rank sees other samples; the second has too few of each class for the difficulty to be defined."""
    return Stream([sample for sample in blobs(seed=RANK) if RANK == 1 or sample[1] < 2][:16])


def trained(*callbacks: Callback, data: Any = None, odd: str | None = None, **arguments: Any) -> dict[str, Any]:
    """The metrics by epoch and the final weights, as this rank has them; `odd` is the place where user code fails."""
    torch.manual_seed(0)
    values, model = EpochValues(), arguments.pop("model", TinyModel)() if odd is None else OddRank(odd)
    trainer = quiet_trainer(*callbacks, values, strategy="ddp", devices=2, **arguments)
    trainer.fit(model, loader() if data is None else data)
    weights = torch.cat([tensor.detach().flatten().double() for tensor in model.parameters()])
    return {"rows": values.rows, "weights": weights.tolist(), "epochs": trainer.current_epoch}


def subset() -> dict[str, Any]:
    """Half of the data set is held back by a sampler, which Lightning wraps."""
    monitor = tiny_monitor()
    data = DataLoader(blobs(), batch_size=8, sampler=SubsetRandomSampler(range(32)))
    outcome = trained(monitor, data=data)
    return outcome | {"train_samples": monitor.values["train_samples"], "probe": monitor.values["probe_samples"]}


class MacroModel(TinyModel):
    """Logs an object whose counts are spread over the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.macro = MulticlassAccuracy(CLASSES)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.macro.update(self(batch[0]), batch[1])
        self.log("val_acc", self.macro)


def validation() -> dict[str, Any]:
    """The validation accuracy that is compared, and the true one of all samples of both ranks."""
    monitor, model, held_out = tiny_monitor(), MacroModel(), blobs(50, seed=1)
    quiet_trainer(monitor, strategy="ddp", devices=2, max_epochs=1).fit(model, loader(), DataLoader(held_out, 16))
    model.eval()
    with torch.no_grad():
        right = (model(held_out.tensors[0]).argmax(1) == held_out.tensors[1]).double().mean()
    assert monitor._state is not None
    samples, figure = monitor._state.validation.samples, (monitor._state.validation.figures or {})["val_acc"]
    return {"right": float(right), "samples": samples, "figure": [figure.right, figure.total]}


def failing_on(rank: int, values: dict[str, float] | None = None) -> Measure:
    """A measure that fails on this rank only, in every epoch."""

    def measure(probe: Probe) -> Values:
        return careless()(probe) if rank == RANK else values or {}

    return Measure(measure, {}, 1)


def failing(monitor: GapMonitor, *callbacks: Callback, odd: str | None = None, **measures: Measure) -> dict[str, Any]:
    """Train with these in place of the measures of that name; also what was said of failures, and how often."""
    before = dict(MEASURES)
    MEASURES.update(measures)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcome = trained(monitor, *callbacks, odd=odd, max_epochs=5)
    finally:
        MEASURES.update(before)
    words = ("GapMonitor could not measure", "GapMonitor is switched off")
    said = [str(warning.message) for warning in caught if str(warning.message).startswith(words)]
    return outcome | {"said": said, "failures": monitor._state.schedule.failures if monitor._state else {}}


def failing_optional() -> dict[str, Any]:
    """Measures that the predictor does not need fail, each on another rank; one of a third kind does not."""
    values = {"norm/spectral_change": 0.5}
    monitor = tiny_monitor(measures=["norm", "perturbation", "calibration"])
    return failing(monitor, norm=failing_on(0, values), perturbation=failing_on(1, values))


class OddRank(TinyModel):
    """User code that fails on the second rank under the monitor's hands, which are those in eval mode."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def _fails_in(self, place: str) -> None:
        if place == self.place and RANK == 1 and not self.training:
            raise ArithmeticError(f"broken {place}")

    def forward(self, images: Tensor) -> Tensor:
        self._fails_in("forward")
        return super().forward(images)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self._fails_in("hook")
        return batch


def targets_on_rank_one(batch: Any) -> Tensor:
    """Targets that the second rank cannot use."""
    return batch[1].float() if RANK == 1 else batch[1]


def another_function() -> dict[str, Any]:
    """The second rank trains on squared images."""

    def step(module: TinyModel, batch: Any) -> Tensor:
        return cross_entropy(module(batch[0] if RANK == 0 else batch[0].square()), batch[1])

    monitor = tiny_monitor()
    outcome = trained(monitor, model=lambda: Stepping(step))
    return outcome | {"never": monitor._state.never_because if monitor._state else []}


class OddDisplay(Callback):
    """The monitor itself fails on the second rank."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        (monitor,) = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]
        if RANK == 1:
            monitor._moments = replace(monitor._moments, display=None)


class SlowRank(Callback):
    """One rank has a clock of its own: the budget would decide differently there."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        (monitor,) = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]
        monitor._state.budget.train(1e4 * RANK)


class DearOnRankZero(Callback):
    """A measurement is expected to take longer than the budget allows on rank 0, and nothing on the other."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        (monitor,) = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]
        monitor._state.budget.prices = [1e6 if RANK == 0 else 1e-9]


def in_tree(tree: str) -> dict[str, Any]:
    """The other tree's own wrapper of samplers and its own strategy; both callbacks of ours."""
    monitor, stopping = tiny_monitor(), GapEarlyStopping("gengap/train_loss", mode="min", patience=1, min_delta=10.0)
    data = DataLoader(blobs(), batch_size=8, sampler=SubsetRandomSampler(range(32)))
    rows = fit(tree, stopping, monitor, data=data, strategy="ddp", devices=2, max_epochs=5)
    return {"rows": rows.rows, "epochs": rows.trainer.current_epoch, "train_samples": monitor.values["train_samples"]}


class OddOnRank(TensorDataset):
    """Held-out samples that one rank cannot read."""

    def __init__(self, rank: int) -> None:
        super().__init__(*blobs(50, seed=1).tensors)
        self.rank = rank

    def __getitem__(self, index: Any) -> Any:
        if self.rank == RANK:
            raise OSError("no such file")
        return super().__getitem__(index)


def observing(held_out: Any, **arguments: Any) -> dict[str, Any]:
    """Held-out samples, and a validation where the model logs its accuracy."""
    monitor = tiny_monitor(held_out=held_out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = trained(monitor, max_epochs=3, **arguments)
    seen = [] if monitor._state is None else [asdict(one) for one in monitor._state.observations]
    said = [str(warning.message) for warning in caught if "held_out" in str(warning.message)]
    standing = None if monitor._state is None else asdict(monitor._state.standing)
    return outcome | {"observations": seen, "standing": standing, "said": said}


SETTINGS = {
    "held out": lambda: observing(blobs(50, seed=1)),
    "held out from a stream": lambda: observing(blobs(50, seed=1), data=stream(8)),
    "held out fails on rank 0": lambda: observing(OddOnRank(0)),
    "held out fails on rank 1": lambda: observing(OddOnRank(1)),
    "without": lambda: trained(),
    "with": lambda: trained(tiny_monitor()),
    "full": lambda: trained(tiny_monitor(verbosity="full")),
    "stream": lambda: trained(tiny_monitor(verbosity="full"), data=stream(8)),
    "rank stream": lambda: trained(tiny_monitor(verbosity="full"), data=DataLoader(rank_stream(), batch_size=8)),
    "subset": subset,
    "validation": validation,
    "budget": lambda: trained(tiny_monitor(budget=0.01), DearOnRankZero(), max_epochs=4),
    "expensive": lambda: trained(tiny_monitor(budget=0.5, measures=["gradient_noise"]), SlowRank(), max_epochs=4),
    "optional": failing_optional,
    "fails on rank 0": lambda: failing(tiny_monitor(predictor=NEEDING_NORM), norm=failing_on(0)),
    "fails on rank 1": lambda: failing(tiny_monitor(predictor=NEEDING_NORM), norm=failing_on(1)),
    "odd forward": lambda: failing(tiny_monitor(), odd="forward"),
    "odd hook": lambda: failing(tiny_monitor(), odd="hook"),
    "odd targets": lambda: failing(tiny_monitor(target=targets_on_rank_one)),
    "odd display": lambda: failing(tiny_monitor(), OddDisplay()),
    "another function": another_function,
    "stopping": lambda: trained(tiny_monitor(), GapEarlyStopping(max_gap=0.01), max_epochs=4),
    **{tree: lambda tree=tree: in_tree(tree) for tree in (FIRST, OTHER) if find_spec(tree)},
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    outcomes = {name: setting() for name, setting in SETTINGS.items()}
    Path(sys.argv[1], f"{RANK}.json").write_text(json.dumps(outcomes))
