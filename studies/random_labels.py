"""Which measures tell networks fitted to true labels from networks fitted to random labels, pair by pair.

    python studies/random_labels.py --out DIRECTORY [--data DIRECTORY] [--sizes 1000 2000] [--seeds 5]

The two networks of a pair share architecture, size, seed, images and initial weights. Their labels are those of
`randomized_data`. The images are CIFAR-10 at 16 x 16 from --data, or the embedded digits without it. All networks train
with AdamW until 0.99 of the training samples are classified correctly in eval mode. Beyond 2,000 samples the hidden
layer of the CNN is wider, for true labels too.

The default measures, and those that a predictor needs, take up to 1,024 training samples. The others take up to 256, or
up to 64 if they declare more than 150 forwards. Networks with partly random labels have the first group only.

Each network (npz) and its measurements (json) are files in DIRECTORY, written when they are complete. An interrupted
study goes on where it was, and adds measures that are new. Delete the json files to measure the same networks again.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from random_label_runs import CLASSES, FITTED, Run, Split, accuracy, prepare, train_or_load
from separations import say_levels, say_pairs
from torch import Tensor, nn

from lightning_gengap import available_predictors, load_predictor
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.derived import derived
from lightning_gengap.measures.measure import Measure
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import Samples
from lightning_gengap.zoo.files import write_whole

EXPENSIVE = 150.0  # forwards
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
PREDICTORS = tuple(name for name in available_predictors() if name.startswith(("default_", "images_")))
NEEDED = {name for predictor in PREDICTORS for name in load_predictor(predictor).measures}
Tables = list[tuple[dict[str, Measure], int]]  # measures, and how many samples they take


def measure_into(
    row: dict[str, Any], model: nn.Module, train: Split, initial: dict[str, Tensor], tables: Tables
) -> None:
    """Add to the row every measure of the tables that it lacks, with notes on what is absent."""
    for table, count in tables:
        images, labels = train.images[:count], train.labels[:count]
        pairs = zip(images.split(256), labels.split(256), strict=True)
        batches = tuple(ProbeBatch((x, y), y, x) for x, y in pairs)
        measurer = Measurer.of(model, Samples(batches, len(train.labels), False), TrainingMemory(initial))
        for name in (name for name in table if name not in row["measured"]):
            try:
                measurement = measurer.measure(model, [name])
            except Exception as error:  # the other measures go on
                row["notes"].append(f"{name} fails: {type(error).__name__}: {error}")
                continue
            # Facts of the task come with every measure. Those of the larger probe stay.
            larger = table is tables[0][0]
            row["values"] |= {key: value for key, value in measurement.values.items() if larger or "/" in key}
            row["notes"] += measurement.notes
            row["measured"].append(name)


def row_of(run: Run, folder: Path, directory: Path | None, needed_only: bool) -> dict[str, Any]:
    """What is known of a run: its values, epochs, train accuracy and gap; measured unless its file has all of it."""
    path = folder / f"{run.name}.json"
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"measured": [], "values": {}, "notes": []}
    first = {name: entry for name, entry in MEASURES.items() if entry.by_default or name in NEEDED}
    tables: Tables = [(first, 1024)]
    if needed_only:
        tables = [({name: entry for name, entry in first.items() if name in NEEDED}, 1024)]
    elif run.level in (0.0, 1.0):
        others = {name: entry for name, entry in MEASURES.items() if not entry.by_default and name not in first}
        expensive = {name: entry for name, entry in others.items() if entry.forwards > EXPENSIVE}
        cheap = {name: entry for name, entry in others.items() if name not in expensive}
        tables += [(cheap, 256), (expensive, 64)]
    if {name for table, _ in tables for name in table} <= set(row["measured"]):
        return row
    train, test = prepare(run, directory)
    model, initial, facts = train_or_load(run, train, folder)
    measure_into(row, model, train, initial, tables)
    row["values"] |= derived(row["values"])
    row["values"]["speed/train_loss_mean"], row["epochs"] = facts["speed/train_loss_mean"], facts["epochs"]
    row["fitted"] = accuracy(model, train)
    row["gap"] = row["fitted"] - ((1 - run.level) * accuracy(model, test) + run.level / CLASSES)
    write_whole(path, json.dumps(row))
    return row


def with_predictions(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what each bundled predictor says by itself, without one that it prefers."""
    values = row["values"] | derived(row["values"])  # the file may be older than a derived key
    found = {name: replace(load_predictor(name), preferred=None).predict(values) for name in PREDICTORS}
    return row | {name: asdict(prediction) for name, prediction in found.items()}


def line(run: Run, row: dict[str, Any]) -> str:
    """A row of the printed table."""
    predicted = " | ".join(f"{row[name]['gap']:.3f}{' (abstains)' * row[name]['abstained']}" for name in PREDICTORS)
    return (
        f"| {run.network} | {run.size} | {run.seed} | {run.level:g} | {row['epochs']:.0f} | {row['fitted']:.3f} "
        f"| {row['gap']:.3f} | {predicted} |"
    )


def main() -> None:
    """Train, measure and predict every run, then compare the pairs."""
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
            print(run.name, train_or_load(run, prepare(run, options.data)[0], options.out)[2], flush=True)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| network | size | seed | level | epochs | fitted | gap | " + " | ".join(PREDICTORS) + " |")
    print("|---" * (7 + len(PREDICTORS)) + "|")
    rows: dict[Run, dict[str, Any]] = {}
    for run in runs:
        rows[run] = with_predictions(row_of(run, options.out, options.data, options.needed_only))
        print(line(run, rows[run]), flush=True)
    every = [(rows[true], rows[random]) for true, random in zip(ends[::2], ends[1::2], strict=True)]
    for seed in range(options.level_seeds):
        say_levels(seed, LEVELS, [rows[run] for run in levels if run.seed == seed], PREDICTORS)
    say_pairs(every, FITTED, PREDICTORS)
    for note in sorted({note for row in rows.values() for note in row["notes"]}):
        print(f"note: {note}")


if __name__ == "__main__":
    main()
