"""What the parts of the start of a monitored training take, beside one plain epoch of a small network.

    python benchmarks/start_up.py [--cases "2,000 images" ...] [--rounds 2]

Each part is what `GapMonitor` measures with the default predictors, and each reference as where it is taken at once.
The last column is the time of a part over that of one epoch without a monitor, both timed in turn.
"""

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.timing import in_turn, machine, spread
from lightning_gengap.errors import Undefined
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures.agreement.out_of_fold import out_of_fold
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.monitor.schedule import Selection
from lightning_gengap.network.probe import copy_state
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.standalone import measurer_for
from lightning_gengap.undisturbed import undisturbed

CLASSES = 10


class Case(NamedTuple):
    """A data set, and a small network for it."""

    inputs: Tensor
    model: nn.Module


def of_images(count: int) -> Case:
    convolutions = [nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU()]
    head = [nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return Case(torch.randn(count, 3, 32, 32), nn.Sequential(*convolutions, *head, nn.Linear(256, CLASSES)))


def of_a_table(count: int) -> Case:
    layers = [nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)]
    return Case(torch.randn(count, 20), nn.Sequential(*layers))


def of_texts(count: int) -> Case:
    return Case(torch.randint(5000, (count, 20)), nn.Sequential(nn.EmbeddingBag(5000, 64), nn.Linear(64, CLASSES)))


CASES: dict[str, Callable[[], Case]] = {
    "2,000 images": lambda: of_images(2_000),
    "10,000 images": lambda: of_images(10_000),
    "50,000 images": lambda: of_images(50_000),
    "table of 4,000": lambda: of_a_table(4_000),
    "texts of 4,000": lambda: of_texts(4_000),
}


def epoch(case: Case, labels: Tensor) -> None:
    optimizer = torch.optim.SGD(case.model.parameters(), 1e-4)
    case.model.train()
    for rows in torch.randperm(len(labels)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(case.model(case.inputs[rows]), labels[rows]).backward()
        optimizer.step()


def parts_of(case: Case, labels: Tensor) -> dict[str, Callable[[], None]]:
    """Each part of the start, as a work that begins with an empty memory."""
    wanted = Selection.of(load_predictor("default"), ()).wanted
    reader, data = SampleReader(1024), DataLoader(TensorDataset(case.inputs, labels), batch_size=64, shuffle=True)
    measurer = measurer_for(case.model, data, reader, copy_state(case.model))

    def fresh(keys: frozenset[str] | None) -> Measurer:
        return replace(measurer, memory=TrainingMemory(measurer.memory.initial_state), wanted=keys)

    def by_measure(name: str) -> Callable[[], None]:
        return lambda: fresh(wanted).measure(case.model, [name]) and None

    def by_reference(name: str) -> Callable[[], None]:
        def ask() -> None:
            with undisturbed(case.model), suppress(Undefined):
                out_of_fold(fresh(None)._probe(case.model), name)

        return ask

    parts = {name: by_measure(name) for name in ("fit", "difficulty", "input_difficulty")}
    return parts | {f"reference: {name}": by_reference(name) for name in REFERENCES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(machine())
    print("| data | part | seconds | epochs |\n|---|---|---|---|")
    for name in options.cases:
        case = CASES[name]()
        labels = torch.arange(len(case.inputs)) % CLASSES
        parts = parts_of(case, labels)
        rounds = in_turn([lambda case=case, labels=labels: epoch(case, labels), *parts.values()], options.rounds)
        plain, *timed = zip(*rounds, strict=True)
        print(f"| {name} | one epoch | {spread(plain)} | 1 |")
        for part, times in zip(parts, timed, strict=True):
            ratios = [own / whole for own, whole in zip(times, plain, strict=True)]
            print(f"| {name} | {part} | {spread(times)} | {statistics.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
