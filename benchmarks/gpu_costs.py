"""The cost tables of gpu_check.py: what a measurement, the soft rank and a whole training cost on a device.

Times are medians over rounds in turn, with their range. A forward is one over the measured samples in eval mode, a step
one of SGD on a batch.
"""

import copy
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from networks import dense, probe_of, resnet_18, resnet_20, training_step
from timing import in_turn, spread
from torch import Tensor, nn

from lightning_gengap import GapMonitor
from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.network.probe import Probe, copy_state
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import Samples
from lightning_gengap.undisturbed import undisturbed


@dataclass(frozen=True)
class Subject:
    """A network and the images it is given.

    Attributes:
        batch: of a training step, and of a chunk of the probe.
        samples: that are measured.
        curved: samples of the curvature.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    samples: int
    curved: int


SUBJECTS = {
    "MLP": Subject(lambda: dense(width=256), (1, 8, 8), 128, 1024, 256),
    "ResNet-20": Subject(resnet_20, (3, 32, 32), 128, 1024, 256),
    "ResNet-18": Subject(resnet_18, (3, 32, 32), 128, 1024, 128),
}
QUICK = {"MLP": Subject(lambda: dense(width=16), (1, 8, 8), 64, 128, 32)}


@dataclass
class Table:
    """Rows under a heading, and what is to be known of them."""

    name: str
    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """For the report."""
        lines = [f"## {self.title}", "", f"| {' | '.join(self.header)} |", "|" + "---|" * len(self.header)]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows), ""])

    def write(self, folder: Path) -> None:
        """As a CSV file."""
        with (folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.header, *self.rows])


def batches_of(subject: Subject, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(subject.samples) % 10
    inputs = torch.randn(subject.samples, *subject.shape, generator=generator) + 0.1 * targets[:, None, None, None]
    return inputs.to(device), targets.to(device)


def costs(table: Table, name: str, subject: Subject, device: str, rounds: int) -> None:
    """What the predictor reads, and the margins alone, in forwards and in steps."""
    torch.manual_seed(0)
    model, (inputs, targets) = subject.build().to(device), batches_of(subject, device)
    twin, size = copy.deepcopy(model).train(), subject.batch
    optimizer = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9)
    predictor = load_predictor("default")
    parts = zip(inputs.split(size), targets.split(size), strict=True)
    samples = Samples(tuple(ProbeBatch((x, y), y, x) for x, y in parts), train_samples=50_000, augmented=False)
    memory = TrainingMemory(initial_state=copy_state(model))
    measurer = Measurer.of(model, samples, memory, wanted=frozenset(predictor.needs))
    measurer.measure(model, predictor.measures)  # what is taken once per training
    with undisturbed(model):
        probe = probe_of(model, inputs, targets, size)

        def forward() -> None:
            with torch.no_grad():
                for batch in probe.batches:
                    model(batch.inputs)

        def margins() -> None:
            margin_signature(Probe(model=model, batches=probe.batches, layout=probe.layout))

        def step() -> None:
            training_step(twin, optimizer, inputs[:size], targets[:size])

        def cheap() -> None:
            measurer.measure(model, predictor.measures)

        times = in_turn((forward, step, margins, cheap), rounds)
    for what, at in (("margins of all layers", 2), ("all that the predictor reads", 3)):
        milliseconds = [1000 * row[at] for row in times]
        in_forwards, in_steps = [row[at] / row[0] for row in times], [row[at] / row[1] for row in times]
        table.rows.append([name, what, *map(spread, (milliseconds, in_forwards, in_steps))])


def soft_rank(table: Table, name: str, subject: Subject, device: str, rounds: int) -> None:
    """Products with the curvature, in steps of the same number of samples."""
    torch.manual_seed(0)
    model, (inputs, targets) = subject.build().to(device), batches_of(subject, device)
    inputs, targets = inputs[: subject.curved], targets[: subject.curved]
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9)
    with undisturbed(model):
        curvature = dual_curvature(probe_of(model, inputs, targets, subject.curved))
        start = curvature.random_signs(torch.Generator().manual_seed(0))
        works = (lambda: training_step(twin, optimizer, inputs, targets), lambda: curvature.product(start))
        times = in_turn(works, rounds)
    milliseconds, in_steps = [1000 * own for _, own in times], [own / step for step, own in times]
    table.rows.append([name, str(subject.curved), spread(milliseconds), spread(in_steps)])


def overhead(table: Table, name: str, subject: Subject, device: str, rounds: int, epochs: int) -> None:
    """Whole trainings with the default monitor and without it, in turn."""
    from lightning.pytorch import LightningModule, Trainer
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    class Training(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = subject.build()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)

    inputs, targets = (part.cpu() for part in batches_of(subject, device))
    repeats = 1 if device == "cpu" else 10  # an epoch of some seconds
    data = TensorDataset(inputs.repeat(repeats, 1, 1, 1), targets.repeat(repeats))

    def fit(*monitors: Any) -> Callable[[], None]:
        def work() -> None:
            torch.manual_seed(0)
            trainer = Trainer(
                accelerator="gpu" if device == "cuda" else device,
                devices=1,
                max_epochs=epochs,
                callbacks=[build() for build in monitors],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Training(), DataLoader(data, batch_size=subject.batch, shuffle=True))

        return work

    times = in_turn((fit(), fit(GapMonitor)), rounds)
    plain, watched = [row[0] for row in times], [row[1] for row in times]
    ratios = [own / without for without, own in times]
    cells = (spread(plain), spread(watched), spread(ratios, 3))
    table.rows.append([name, str(epochs), str(len(data)), *cells])
