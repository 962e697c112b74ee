"""Which measures tell networks fitted to true labels from networks fitted to random ones, pair by pair.

    python benchmarks/random_labels.py --out DIRECTORY [--data DIRECTORY] [--sizes 1000 2000] [--seeds 5]

Pairs share architecture, size, seed, images and initial weights; the labels are those of `randomized_data`. All train
with AdamW until 0.99 of the training samples are classified correctly in eval mode, CIFAR-10 at 16 x 16 from --data,
the embedded digits without it; beyond 2,000 samples the CNN's hidden layer is wider, for true labels too. The default
measures, and those a predictor needs, take up to 1,024 training samples, those on request up to 256, and those that
declare more than 150 forwards up to 64; networks of partly random labels have the first only.

Each network (npz) and its measurements (json) are files in DIRECTORY, written when complete: an interrupted study goes
on where it was, and a measure that is new since then is added. Delete the json to measure the same networks again.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from separations import say_levels, say_pairs
from timing import machine
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torch.utils.data import TensorDataset

from lightning_gengap import available_predictors, load_predictor
from lightning_gengap.measurement import Measurer, TrainingMemory
from lightning_gengap.measures import MEASURES, Measure
from lightning_gengap.measures.derived import derived
from lightning_gengap.network.probe import copy_state
from lightning_gengap.randomized_data import corrupted_labels
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import Samples
from lightning_gengap.zoo.train.architectures import mlp, vgg
from lightning_gengap.zoo.train.datasets import load

FITTED, MOST_EPOCHS, CLASSES = 0.99, 400, 10
NARROW, HIDDEN = 2000, 512  # training samples up to which the CNN's hidden layer of 64 fits them; its units beyond
DEAR = 150.0  # forwards
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
PREDICTORS = tuple(name for name in available_predictors() if name.startswith(("default_", "images_")))
NEEDED = {name for predictor in PREDICTORS for name in load_predictor(predictor).measures}
Tables = list[tuple[dict[str, Measure], int]]


@dataclass(frozen=True)
class Run:
    """What determines a training; `level` is the share of labels drawn at random."""

    network: str
    size: int
    seed: int
    level: float

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.network}_{self.size}_{self.seed}_{self.level:g}"


@dataclass(frozen=True)
class Split:
    """Standardised images and their labels."""

    images: Tensor
    labels: Tensor


def drawn(split: str, count: int, seed: int, directory: Path | None) -> Split:
    pixels, labels = load("cifar10" if directory else "digits", split, directory)
    chosen = np.random.default_rng([seed, count]).permutation(len(labels))[:count]
    images = torch.from_numpy(np.ascontiguousarray(pixels[chosen])).permute(0, 3, 1, 2).float()
    if images.shape[-1] > 16:
        images = adaptive_avg_pool2d(images, 16)
    return Split(images, torch.from_numpy(labels[chosen]))


def prepared(run: Run, directory: Path | None) -> tuple[Split, Split]:
    """Training samples with the run's labels, and test samples with their own."""
    train, test = drawn("train", run.size, run.seed, directory), drawn("test", 2000, 0, directory)
    mean = train.images.mean(dim=(0, 2, 3), keepdim=True)
    deviation = train.images.std(dim=(0, 2, 3), keepdim=True)
    given = corrupted_labels(TensorDataset(train.images, train.labels), CLASSES, run.level, run.seed)
    labels = torch.tensor([given[index][1] for index in range(len(given))])
    return Split((train.images - mean) / deviation, labels), Split((test.images - mean) / deviation, test.labels)


def built(run: Run, images: Tensor) -> nn.Module:
    torch.manual_seed(run.seed)
    channels, side = images.shape[1:3]
    if run.network == "cnn":
        model = vgg(channels, side, CLASSES, 16, 1, 0.0, norm=True)
        if run.size > NARROW:
            *rest, first, _, _, _ = model
            return nn.Sequential(*rest, nn.Linear(first.in_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        return model
    return mlp(channels * side * side, CLASSES, 128, 2, 0.0, norm=False)


def accuracy(model: nn.Module, data: Split) -> float:
    """In eval mode, which the model is left in."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in data.images.split(500)])
    return float((logits.argmax(1) == data.labels).double().mean())


def fitted(model: nn.Module, train: Split, seed: int) -> dict[str, float]:
    """Train until the bar is reached or the epochs are spent; epochs, and the running mean of the steps' loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    epochs, total, steps = 0, 0.0, 0
    while epochs < MOST_EPOCHS and accuracy(model, train) < FITTED:
        model.train()
        for rows in torch.randperm(len(train.labels), generator=generator).split(50):
            optimizer.zero_grad()
            loss = cross_entropy(model(train.images[rows]), train.labels[rows])
            loss.backward()
            optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
        epochs += 1
    return {"epochs": float(epochs), "speed/train_loss_mean": total / max(steps, 1)}


def trained(run: Run, train: Split, folder: Path) -> tuple[nn.Module, dict[str, Tensor], dict[str, float]]:
    """The trained network, its initial state, and what training says; from the file where there is one."""
    model = built(run, train.images)
    initial, path = copy_state(model), folder / f"{run.name}.npz"
    if not path.exists():
        facts = fitted(model, train, run.seed)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **facts, **{f"state/{name}": value for name, value in copy_state(model).items()})
        partial.replace(path)
    with np.load(path) as stored:
        state = {name.removeprefix("state/"): stored[name] for name in stored.files if name.startswith("state/")}
        facts = {name: float(stored[name]) for name in stored.files if not name.startswith("state/")}
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return model, initial, facts


def measured(model: nn.Module, train: Split, initial: dict[str, Tensor], row: dict[str, Any], tables: Tables) -> None:
    """Add to the row every measure of the tables that it lacks, with notes on what is absent."""
    for table, count in tables:
        images, labels = train.images[:count], train.labels[:count]
        pairs = zip(images.split(256), labels.split(256), strict=True)
        batches = tuple(ProbeBatch((x, y), y, x) for x, y in pairs)
        samples = Samples(batches, len(train.labels), False)
        measurer = Measurer.of(model, samples, TrainingMemory(initial))
        for name in (name for name in table if name not in row["measured"]):
            try:
                measurement = measurer.measure(model, [name])
            except Exception as error:  # of one measure: the others go on
                row["notes"].append(f"{name} fails: {type(error).__name__}: {error}")
                continue
            # Facts of the task come with each: those of the larger probe stay.
            larger = table is tables[0][0]
            row["values"] |= {key: value for key, value in measurement.values.items() if larger or "/" in key}
            row["notes"] += measurement.notes
            row["measured"].append(name)


def written(path: Path, row: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(row))
    partial.replace(path)


def done(run: Run, folder: Path, directory: Path | None, needed_only: bool) -> dict[str, Any]:
    path = folder / f"{run.name}.json"
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"measured": [], "values": {}, "notes": []}
    first = {name: entry for name, entry in MEASURES.items() if entry.by_default or name in NEEDED}
    tables: Tables = [(first, 1024)]
    if needed_only:
        tables = [({name: entry for name, entry in first.items() if name in NEEDED}, 1024)]
    elif run.level in (0.0, 1.0):
        others = {name: entry for name, entry in MEASURES.items() if not entry.by_default and name not in first}
        dear = {name: entry for name, entry in others.items() if entry.forwards > DEAR}
        tables += [({name: entry for name, entry in others.items() if name not in dear}, 256), (dear, 64)]
    if {name for table, _ in tables for name in table} <= set(row["measured"]):
        return row
    train, test = prepared(run, directory)
    model, initial, facts = trained(run, train, folder)
    measured(model, train, initial, row, tables)
    row["values"] |= derived(row["values"])
    row["values"]["speed/train_loss_mean"], row["epochs"] = facts["speed/train_loss_mean"], facts["epochs"]
    row["fitted"] = accuracy(model, train)
    row["gap"] = row["fitted"] - ((1 - run.level) * accuracy(model, test) + run.level / CLASSES)
    written(path, row)
    return row


def predicted(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what each bundled predictor says, none of them handing over to another."""
    values = row["values"] | derived(row["values"])  # also what was derived by no version yet that measured it
    found = {name: replace(load_predictor(name), preferred=None).predict(values) for name in PREDICTORS}
    return row | {name: asdict(prediction) for name, prediction in found.items()}


def said(run: Run, row: dict[str, Any]) -> str:
    predicted = " | ".join(f"{row[name]['gap']:.3f}{' (abstains)' * row[name]['abstained']}" for name in PREDICTORS)
    return (
        f"| {run.network} | {run.size} | {run.seed} | {run.level:g} | {row['epochs']:.0f} | {row['fitted']:.3f} "
        f"| {row['gap']:.3f} | {predicted} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", default=["cnn", "mlp"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 2000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--level-seeds", type=int, default=3)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--needed-only", action="store_true", help="only what the predictors need")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = [size if options.data else min(size, 1197) for size in options.sizes]
    ends = [
        Run(network, size, seed, level)
        for size in dict.fromkeys(sizes)
        for network in options.networks
        for seed in range(options.seeds)
        for level in (0.0, 1.0)
    ]
    levels = [Run(options.networks[0], sizes[0], s, level) for s in range(options.level_seeds) for level in LEVELS]
    runs = list(dict.fromkeys([*ends, *levels]))
    if options.train_only:
        for run in runs:
            print(run.name, trained(run, prepared(run, options.data)[0], options.out)[2], flush=True)
        return
    print(f"{machine()}\n| network | size | seed | level | epochs | fitted | gap | " + " | ".join(PREDICTORS) + " |")
    print("|---" * (7 + len(PREDICTORS)) + "|")
    rows: dict[Run, dict[str, Any]] = {}
    for run in runs:
        rows[run] = predicted(done(run, options.out, options.data, options.needed_only))
        print(said(run, rows[run]), flush=True)
    every = [(rows[true], rows[random]) for true, random in zip(ends[::2], ends[1::2], strict=True)]
    for seed in range(options.level_seeds):
        say_levels(seed, LEVELS, [rows[run] for run in levels if run.seed == seed], PREDICTORS)
    say_pairs(every, FITTED, PREDICTORS)
    for note in sorted({note for row in rows.values() for note in row["notes"]}):
        print(f"note: {note}")


if __name__ == "__main__":
    main()
