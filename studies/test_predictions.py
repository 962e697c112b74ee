"""What finished runs say of every test sample at their snapshots, from kept weights: held-out samples that are real.

    python studies/test_predictions.py RUNS [RUNS ...] --data DATA --out predictions.npz

`RUNS` are folders of `gengap zoo run --keep-weights`, `DATA` is the one of the data sets. For each run the file holds
the class that is predicted of each test sample at each snapshot, the label as it was before noise, and the epochs.
`studies/evidence.py --real` and `studies/choosing.py --real` take some of these samples for held-out ones and are
judged on the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_gengap.zoo.files import finished
from lightning_gengap.zoo.train.model import fresh_model
from lightning_gengap.zoo.train.recipe import recipe_of
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.snapshots import Weights
from lightning_gengap.zoo.train.task import prepare

Classes = NDArray[np.int16]
_CHUNK = 1000


@dataclass(frozen=True)
class TestPredictions:
    """Of one run: predicted classes of shape (snapshots, samples), labels (samples,), epochs (snapshots,)."""

    __test__ = False  # no test, whatever its name begins with

    predicted: Classes
    labels: Classes
    epochs: NDArray[np.int64]


def predictions_of(path: Path, directory: Path | None) -> TestPredictions:
    """Predict every test sample at the weights that were kept beside the run's file."""
    content = json.loads(path.read_text())
    recipe = recipe_of(content["recipe"])
    weights = Weights.read(path.with_suffix(".npz"))
    epochs = [int(row["epoch"]) for row in content["rows"]]
    with silence_lightning(), torch.no_grad():
        data = prepare(recipe.task, directory)
        model = fresh_model(recipe, data, directory).eval()
        predicted = []
        for epoch in epochs:
            model.load_state_dict(weights.at(epoch))
            chunks = [model(chunk).argmax(1) for chunk in data.test_images.split(_CHUNK)]
            predicted.append(torch.cat(chunks).numpy().astype(np.int16))
    return TestPredictions(np.stack(predicted), data.test_labels.numpy().astype(np.int16), np.array(epochs))


def write(path: Path, found: dict[str, TestPredictions]) -> None:
    """One compressed archive."""
    arrays = {f"{run}/{name}": value for run, one in found.items() for name, value in vars(one).items()}
    np.savez_compressed(path, **arrays)


def read(path: Path) -> dict[str, TestPredictions]:
    """What `write` wrote, by run."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    runs = dict.fromkeys(key.split("/")[0] for key in arrays)
    return {
        run: TestPredictions(*(arrays[f"{run}/{name}"] for name in ("predicted", "labels", "epochs"))) for run in runs
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    paths = [path for folder in options.runs for path in sorted(folder.glob("*.json")) if finished(path)]
    known = {path for path in paths if path.with_suffix(".npz").is_file()}
    write(options.out, {path.stem: predictions_of(path, options.data) for path in sorted(known)})
    print(f"{len(known)} of {len(paths)} runs in {options.out}")


if __name__ == "__main__":
    main()
