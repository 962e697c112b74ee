"""Default `GapMonitor()` in a real fit over many architectures, each beside a twin that is trained without it.

    python benchmarks/compatibility.py [--kind timm] [--name resnet10t] [--out CSV] [--table docs/compatibility.md]

Every finished row is appended to the CSV file, and skipped when the script is run again. A network is trained for two
epochs of three batches on noise images whose mean tells the class. What is compared: all weights and buffers, the
optimizer's state and the next random number. `make compat` runs it in an environment of its own, because torchvision
and timm need a torch that fits them.
"""

import argparse
import csv
import gc
import logging
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from compatible_models import CLASSES, Candidate, candidates
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor

SAMPLES, BATCH, EPOCHS = 24, 8, 2
COLUMNS = ("kind", "name", "parameters", "outcome", "status", "margins", "identical", "seconds", "without", "said")
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


def train(candidate: Candidate, monitor: GapMonitor | None) -> tuple[Trainer, dict[str, Tensor], float]:
    """One training, what it leaves behind by name, and its seconds."""
    torch.manual_seed(0)
    net, inputs = candidate.build(SAMPLES)
    module = Classifier(net)
    loader = DataLoader(TensorDataset(inputs, torch.arange(SAMPLES) % CLASSES), BATCH, shuffle=True)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=[monitor] if monitor else [], **quiet)
    started = time.perf_counter()
    trainer.fit(module, loader)
    seconds = time.perf_counter() - started
    left = {f"state {name}": value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    states = trainer.optimizers[0].state_dict()["state"]
    left |= {f"optimizer {i} {key}": v for i, of in states.items() for key, v in of.items() if isinstance(v, Tensor)}
    return trainer, left | {"random": torch.rand(4)}, seconds


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(_same(value, second[name]) for name, value in first.items())


def _same(one: Tensor, other: Tensor) -> bool:
    one, other = (tensor.to_dense() if tensor.layout != torch.strided else tensor for tensor in (one, other))
    return torch.equal(one, other) or bool((one.isnan() & other.isnan() | (one == other)).all())


def tried(index: int) -> dict[str, Any]:
    """The row of one candidate. Whatever it raises is its outcome."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    candidate = candidates()[index]
    row: dict[str, Any] = {"kind": candidate.kind, "name": candidate.name}
    try:
        row["parameters"] = sum(parameter.numel() for parameter in candidate.build(2)[0].parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, plain, row["without"] = train(candidate, None)
    except Exception as error:
        return row | {"outcome": f"no twin: {type(error).__name__}: {error}"[:200]}
    monitor = GapMonitor()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer, watched, row["seconds"] = train(candidate, monitor)
    except Exception as error:
        return row | {"outcome": f"ended: {type(error).__name__}: {error}"[:200]}
    status = int(trainer.callback_metrics.get("gengap/status", torch.tensor(4)))
    margins = {key.split("/")[1] for key in monitor.values if key.startswith("margin/") and key.count("/") == 2}
    said = {str(w.message).replace("\n", " ") for w in caught if "GapMonitor" in str(w.message)}
    row |= {
        "outcome": "works" if status in (0, 1, 3, 5) else "off",
        "status": status,
        "identical": equal(plain, watched),
    }
    row |= {"margins": " ".join(sorted(margins)), "said": " | ".join(sorted(said))}
    gc.collect()
    return row


def run(wanted: list[int], out: Path) -> None:
    """Try these candidates in processes of their own, and append each row as it comes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    while wanted:
        some, wanted = wanted[:MODELS_A_PROCESS], wanted[MODELS_A_PROCESS:]
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            for place, index in enumerate(some):
                try:
                    row = pool.submit(tried, index).result()
                except BrokenProcessPool:  # the system ended it, for its memory
                    row = {**candidates()[index]._asdict(), "outcome": "killed"}
                    wanted = [*some[place + 1 :], *wanted]
                with out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                    if file.tell() == 0:
                        writer.writeheader()
                    writer.writerow({name: _short(value) for name, value in row.items()})
                print(row["kind"], row["name"], row["outcome"], row.get("identical"), row.get("said"), flush=True)
                if row["outcome"] == "killed":
                    break


def _short(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def rows_of(out: Path) -> list[dict[str, str]]:
    if not out.exists():
        return []
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """The rows in Markdown, with their counts."""
    works = sum(row["outcome"] == "works" for row in rows)
    identical = sum(row["identical"] == "True" for row in rows)
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row["kind"] for row in rows).items())
    lines = [
        "# Architectures that were tried",
        "",
        f"{works} of {len(rows)} architectures were measured ({kinds}); {identical} trainings were identical to their",
        f"twin. `make compat` trained each for {EPOCHS} epochs on {SAMPLES} samples, with `GapMonitor()` and without.",
        "*Margins* are the layers with margins. *Seconds* are those of both epochs with the monitor, start included,",
        "and without it.",
        "",
        "| kind | architecture | parameters | outcome | margins | identical | seconds | without | said |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = ("kind", "name", "parameters", "outcome", "margins", "identical", "seconds", "without", "said")
    lines += ["| " + " | ".join(row[name].replace("|", "/") for name in shown) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind")
    parser.add_argument("--name")
    parser.add_argument("--out", type=Path, default=Path("runs/compatibility.csv"))
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    done = {(row["kind"], row["name"]) for row in rows_of(options.out)}
    wanted = [
        index
        for index, candidate in enumerate(candidates())
        if options.kind in (None, candidate.kind) and options.name in (None, candidate.name)
        if (candidate.kind, candidate.name) not in done
    ]
    run(wanted, options.out)
    if options.table is not None:
        options.table.write_text(table(rows_of(options.out)))


if __name__ == "__main__":
    main()
