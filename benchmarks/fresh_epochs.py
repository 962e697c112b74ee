"""How often the default monitor shows a fresh value, and what it costs, for epochs of about 0.2, 1, 10 and 60 seconds.

    python benchmarks/fresh_epochs.py --out runs/fresh_epochs.csv [--data DIRECTORY] [--quick] [--only NAME]

The epochs take about so long on two CPU cores. Each round trains once without and once with GapMonitor, in turn. Two
such trainings may differ by more than a monitor costs, because the machine's speed drifts: so the time within the
monitor's hooks is also set against the rest of the same epochs. The first training of a process is a warm-up and does
not count. A finished training is appended to --out and not repeated.
With --data the longer epochs train on CIFAR-10; without it, on enlarged digits that are repeated. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from networks import dense, images, resnet_20
from timing import spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor
from lightning_gengap.zoo.files import append_row, read_rows
from lightning_gengap.zoo.train.convolutional_networks import vgg
from lightning_gengap.zoo.train.shape import Shape
from lightning_gengap.zoo.train.silence_lightning import silence_lightning

STATUSES = {"fresh": "0", "held": "1", "abstaining": "35"}  # 2 and 4 are failures


def small_cnn() -> nn.Module:
    return vgg(Shape(3, 16, 10, width=16, depth=1))


@dataclass(frozen=True)
class Setting:
    """Trainings whose epochs take about so many seconds."""

    name: str
    network: Callable[[], nn.Module]
    side: int
    samples: int
    epochs: int
    rounds: int
    batch: int = 64

    def data(self, directory: Path | None) -> TensorDataset:
        """Standardised images; digits are repeated, with some noise, until there are enough."""
        source = "digits" if directory is None or self.side == 8 else "cifar10"
        pixels, labels = images(source, self.samples, directory, None if self.side == 8 else self.side)
        times = -(-self.samples // len(labels))
        if times > 1:
            noise = 0.1 * torch.randn(self.samples, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
            pixels, labels = pixels.repeat(times, 1, 1, 1)[: self.samples] + noise, labels.repeat(times)[: self.samples]
        return TensorDataset(pixels, labels)

    @property
    def quick(self) -> Setting:
        """One round of few epochs on few samples."""
        return replace(self, samples=min(self.samples, 1200), epochs=min(self.epochs, 3), rounds=1)


SETTINGS = (
    Setting("0.2 s", dense, 8, 1197, 40, 3, batch=16),
    Setting("1 s", small_cnn, 16, 10_000, 20, 3),
    Setting("10 s", resnet_20, 32, 3_000, 6, 2),
    Setting("60 s", resnet_20, 32, 18_000, 3, 2),
)


class Classifier(LightningModule):
    """A network trained by SGD with momentum."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """At a learning rate that all of these networks learn with."""
        return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)


class Clock(Callback):
    """When the first batch and each epoch ended its turn, and the status of each epoch. It has to be listed last."""

    def __init__(self) -> None:
        self.first = 0.0
        self.ends: list[float] = []
        self.statuses: list[int] = []
        self.overhead: float | None = None
        self.in_hooks = 0.0

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Training itself begins: whatever was prepared is done."""
        self.first = self.first or time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After all other callbacks."""
        self.ends.append(time.perf_counter())
        status, overhead = (trainer.callback_metrics.get(f"gengap/{key}") for key in ("status", "overhead"))
        if status is not None:
            self.statuses.append(int(status))
        self.overhead = None if overhead is None else float(overhead)


def timed_monitor(clock: Clock) -> GapMonitor:
    """A default monitor whose hooks add their seconds to the clock, from the first batch on."""

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return hook(*arguments, **named)
            finally:
                clock.in_hooks += time.perf_counter() - started if clock.first else 0.0

        return call

    monitor = GapMonitor()
    for name in dir(Callback):
        if name.startswith("on_") and getattr(GapMonitor, name) is not getattr(Callback, name):
            setattr(monitor, name, timed(getattr(monitor, name)))
    return monitor


def training(setting: Setting, data: TensorDataset, watched: bool) -> dict[str, Any]:
    """Seconds of one training until its first batch, of its epochs, and of the whole; the statuses in a row."""
    seed_everything(0, verbose=False)
    model, clock = Classifier(setting.network()), Clock()
    with tempfile.TemporaryDirectory() as folder, silence_lightning():
        trainer = Trainer(
            max_epochs=setting.epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(folder),
            callbacks=[timed_monitor(clock), clock] if watched else [clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(data, setting.batch, shuffle=True)
        started = time.perf_counter()
        trainer.fit(model, loader)
        total = time.perf_counter() - started
    return {
        "start": clock.first - started,
        "epochs": clock.ends[-1] - clock.first,
        "in hooks": clock.in_hooks,
        "total": total,
        "overhead": "" if clock.overhead is None else clock.overhead,
        "statuses": "".join(map(str, clock.statuses)),
    }


def line(setting: Setting, rows: Sequence[Mapping[str, str]]) -> str:
    """What one setting showed and cost."""
    by_round = {(int(row["round"]), row["watched"] == "True"): row for row in rows}
    rounds = [number for number in range(setting.rounds) if {(number, True), (number, False)} <= by_round.keys()]
    pairs = [(by_round[number, False], by_round[number, True]) for number in rounds]
    statuses = "".join(watched["statuses"] for _, watched in pairs)
    shares = [sum(status in group for status in statuses) / len(statuses) for group in STATUSES.values()]
    epoch = statistics.median(float(alone["epochs"]) / setting.epochs for alone, _ in pairs)
    ratios = {key: [float(w[key]) / float(alone[key]) for alone, w in pairs] for key in ("total", "epochs")}
    start = [float(watched["start"]) - float(alone["start"]) for alone, watched in pairs]
    in_hooks = [float(w["in hooks"]) / (float(w["epochs"]) - float(w["in hooks"])) for _, w in pairs]
    overhead = statistics.median(float(watched["overhead"]) for _, watched in pairs)
    cells = [
        setting.name,
        f"{epoch:.2f}",
        f"{len(pairs)} x {setting.epochs}",
        *(f"{100 * share:.0f} %" for share in (*shares, 1 - sum(shares))),
        spread(ratios["epochs"], 3),
        spread([1 + share for share in in_hooks], 3),
        spread(start, 2),
        spread(ratios["total"], 3),
        f"{overhead:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "setting",
    "seconds an epoch",
    "trainings x epochs",
    *STATUSES,
    "other",
    "time of the epochs, with / without",
    "with the hooks / without them",
    "start-up (s)",
    "whole time, with / without",
    "logged overhead",
)


def main(arguments: Sequence[str] | None = None, settings: Sequence[Setting] = SETTINGS) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/fresh_epochs.csv"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round of few epochs on few samples: minutes")
    parser.add_argument("--only", default="", help="only the setting of this name")
    options = parser.parse_args(arguments)
    chosen = [setting for setting in settings if options.only in ("", setting.name)]
    chosen = [setting.quick for setting in chosen] if options.quick else chosen
    warm = False
    for setting in chosen:
        done = {(row["round"], row["watched"]) for row in read_rows(options.out) if row["setting"] == setting.name}
        keys = [(number, watched) for number in range(setting.rounds) for watched in (False, True)]
        todo = [(number, watched) for number, watched in keys if (str(number), str(watched)) not in done]
        data = setting.data(options.data) if todo else None
        for number, watched in todo:
            assert data is not None
            if not warm:
                few = TensorDataset(*data[: 2 * setting.batch])
                warm = bool(training(replace(setting, epochs=1), few, watched=True))
            row = training(setting, data, watched)
            append_row(options.out, {"setting": setting.name, "round": number, "watched": watched, **row})
    print(f"{torch.get_num_threads()} threads. Median and range over rounds.\n")
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    for setting in chosen:
        print(line(setting, [row for row in read_rows(options.out) if row["setting"] == setting.name]))


if __name__ == "__main__":
    main()
