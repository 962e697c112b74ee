"""Default `GapMonitor()` in a real fit over many architectures, each beside a twin that is trained without it.

    python benchmarks/compatibility.py [--kind timm] [--name resnet10t] [--out CSV] [--table docs/compatibility.md]
                                       [--jobs 4] [--accelerator gpu]

Every finished row is appended to the CSV file, and skipped when the script is run again. A network is trained for two
epochs of a few batches on noise whose mean tells the class. What is compared: all weights and buffers, the optimizer's
state and the next random numbers of torch, NumPy and Python. Then all default measures are taken, and every key must
have a value or a reason. `make compat` runs it in an environment of its own, because torchvision and timm need a torch
that fits them.
"""

import argparse
import csv
import gc
import logging
import os
import random
import time
import warnings
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from compatibility_table import BATCHES, EPOCHS, rows_of, table
from compatible_models import Candidate, candidates, labels
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, measure
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.standalone import default_measures

COLUMNS = (
    *("kind", "name", "parameters", "outcome", "status", "identical", "seconds", "without"),
    *("margins", "absent", "unexplained", "said"),
)
REPEATS = 3  # of a plain training, which may repeat itself by chance
OF_OTHER_DATA = ("*/tokens*", "*/landmarks*")  # absent in silence on images, unless they are asked for by name
MODELS_A_PROCESS = 25  # a fresh process frees what libraries keep


class Classifier(LightningModule):
    """A network, trained by SGD on the cross-entropy."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, without the auxiliary ones."""
        logits = self.net(inputs)
        return getattr(logits, "logits", logits[0] if isinstance(logits, tuple) else logits)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


class Training(NamedTuple):
    """A finished training.

    Attributes:
        initial: the weights and buffers at its start.
        left: what it leaves behind, by name.
        seconds: of the CPU.
    """

    trainer: Trainer
    initial: dict[str, Tensor]
    left: dict[str, Tensor]
    seconds: float


def train(candidate: Candidate, monitor: GapMonitor | None, accelerator: str) -> Training:
    """One training, with or without a monitor."""
    seed_everything(0, verbose=False)
    net, inputs = candidate.build(candidate.samples)
    module = Classifier(net)
    data = TensorDataset(inputs, labels(len(inputs)))
    loader = DataLoader(data, len(data) // BATCHES, shuffle=True)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(max_epochs=EPOCHS, accelerator=accelerator, callbacks=[monitor] if monitor else [], **quiet)
    initial = _tensors_of(module)
    started = time.process_time()
    trainer.fit(module, loader)
    seconds = time.process_time() - started
    left = {f"state {name}": value for name, value in _tensors_of(module).items()}
    states = trainer.optimizers[0].state_dict()["state"]
    left |= {
        f"optimizer {i} {key}": v.cpu() for i, of in states.items() for key, v in of.items() if isinstance(v, Tensor)
    }
    streams = (torch.rand(4), torch.from_numpy(np.random.rand(4)), torch.tensor([random.random() for _ in range(4)]))
    return Training(trainer, initial, left | {f"stream {i}": numbers for i, numbers in enumerate(streams)}, seconds)


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(_same(value, second[name]) for name, value in first.items())


def _same(one: Tensor, other: Tensor) -> bool:
    one, other = (tensor.to_dense() if tensor.layout != torch.strided else tensor for tensor in (one, other))
    return torch.equal(one, other) or bool((one.isnan() & other.isnan() | (one == other)).all())


def tried(index: int, accelerator: str) -> dict[str, Any]:
    """The row of one candidate. Whatever it raises is its outcome."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.backends.cudnn.deterministic = True
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    candidate = candidates()[index]
    row: dict[str, Any] = {"kind": candidate.kind, "name": candidate.name}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = train(candidate, None, accelerator)
        module = plain.trainer.lightning_module
        row |= {"parameters": sum(map(Tensor.numel, module.parameters())), "without": plain.seconds}
    except Exception as error:
        return row | {"outcome": f"no twin: {type(error).__name__}: {error}"[:200]}
    monitor = GapMonitor()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watched = train(candidate, monitor, accelerator)
    except Exception as error:
        return row | {"outcome": f"ended: {type(error).__name__}: {error}"[:200]}
    status = int(watched.trainer.callback_metrics.get("gengap/status", torch.tensor(4)))
    said = {str(w.message).replace("\n", " ") for w in caught if "GapMonitor" in str(w.message)}
    row |= {
        "outcome": "works" if status in (0, 1, 3, 5) else "off",
        "status": status,
        "identical": equal(plain.left, watched.left),
        "seconds": watched.seconds,
        "said": " | ".join(sorted(said)),
    }
    if not row["identical"] and accelerator != "cpu":
        again = (train(candidate, None, accelerator) for _ in range(REPEATS))
        row["identical"] = False if all(equal(plain.left, one.left) for one in again) else "not repeatable"
    gc.collect()
    return row | all_measured(watched)


def all_measured(training: Training) -> dict[str, str]:
    """What all default measures give for the trained network, by the columns of the table."""
    loader = training.trainer.train_dataloader
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = measure(training.trainer.lightning_module, loader, initial_state=training.initial)
    except Exception as error:
        return {"absent": f"not measured: {type(error).__name__}: {error}"[:300]}
    notes = [str(warned.message) for warned in caught if warned.filename == __file__]  # those of `measure`
    said = [word for note in notes for word in note.partition(" absent: ")[0].replace(",", "").split()]
    wanted = [key for name in default_measures() for key in MEASURES[name].keys if key in MEASURED]
    told = [*said, *OF_OTHER_DATA]
    silent = [key for key in wanted if key not in values and not any(fnmatchcase(key, word) for word in told)]
    margins = {key.split("/")[1] for key in values if key.startswith("margin/") and key.count("/") == 2}
    return {
        "margins": " ".join(sorted(margins)),
        "absent": " | ".join(notes),
        "unexplained": " ".join(silent),
    }


def run(wanted: list[int], out: Path, jobs: int, accelerator: str) -> None:
    """Try these candidates in processes of their own, and append each row as it comes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    waiting, writing = deque(wanted), Lock()

    def work() -> None:
        while waiting:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                for _ in range(MODELS_A_PROCESS):
                    try:
                        index = waiting.popleft()
                    except IndexError:
                        return
                    try:
                        row = pool.submit(tried, index, accelerator).result()
                    except BrokenProcessPool:  # the system ended it, for its memory
                        row = {**candidates()[index]._asdict(), "outcome": "killed"}
                    with writing:
                        _append(row, out)
                    if row["outcome"] == "killed":
                        break

    with ThreadPoolExecutor(jobs) as threads:
        for each in [threads.submit(work) for _ in range(jobs)]:
            each.result()


def _append(row: dict[str, Any], out: Path) -> None:
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({name: _short(value) for name, value in row.items()})
    print(row["kind"], row["name"], row["outcome"], row.get("identical"), row.get("said"), flush=True)


def _short(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind")
    parser.add_argument("--name")
    parser.add_argument("--out", type=Path, default=Path("runs/compatibility.csv"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="architectures at a time")
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args()
    done = {(row["kind"], row["name"]) for row in rows_of(options.out)}
    wanted = [
        index
        for index, candidate in enumerate(candidates())
        if options.kind in (None, candidate.kind) and options.name in (None, candidate.name)
        if (candidate.kind, candidate.name) not in done
    ]
    run(wanted, options.out, options.jobs, options.accelerator)
    if options.table is not None:
        options.table.write_text(table(rows_of(options.out)))


if __name__ == "__main__":
    main()
