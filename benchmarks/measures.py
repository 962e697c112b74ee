"""Time every measure in training steps and in plain forwards over the same samples, beside peers where installed.

    python benchmarks/measures.py [--data DIRECTORY] [--networks ResNet-20] [--only NAMES]

A network is fitted to CIFAR-10 from DIRECTORY, or to embedded digits, until 0.9 of the images are classified correctly
in eval mode. Then no measure ends early for want of accuracy. A measure that declares more forwards than the network's
`repeated` is timed once, the others in `--rounds` rounds, in turn. A training step and a plain forward without
gradients are timed at the head of each round, and again whenever the measures since have taken the time of 30 forwards.
Each measure is taken as at a first measurement, without warm starts, and alone. What several measures share is paid
once where they are taken together, as the row "default measures together" shows.

Every timing goes to the file `--out` at once, and the same command goes on where an interrupted one was. At the end
the timings go to docs/costs.csv, and docs/costs.md is written from it (see cost_page.py).
"""

import argparse
import copy
import json
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cost_page import CASES, add, declared, timing
from networks import accuracy, images, resnet_18, resnet_20, trained
from peer import peer_cases
from timing import machine, seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measures import compute
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe, State, copy_state
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.undisturbed import undisturbed

SAMPLES, CHUNK = 1024, 128
RENEWED = 30  # forwards' time after which step and forward are timed again
Batches = list[tuple[Tensor, Tensor]]


class Subject(NamedTuple):
    """A network, and the declared forwards up to which a measure is timed in every round."""

    build: Callable[[], nn.Module]
    repeated: float


class Case(NamedTuple):
    """What is timed, the forwards that it declares or is expected to need, and the most that it can need."""

    name: str
    declared: float
    most: float
    work: Callable[[], object]


SUBJECTS = {"ResNet-20": Subject(resnet_20, math.inf), "ResNet-18": Subject(resnet_18, 31)}


def forward(model: nn.Module, data: Batches) -> None:
    model.eval()
    with torch.no_grad():
        for inputs, _ in data:
            model(inputs)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Batches) -> None:
    """A pass of training over the data, in minibatches of CHUNK."""
    model.train()
    for inputs, labels in data:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def measured(
    model: nn.Module, layout: Layout, data: Batches, initial: State, notes: dict[str, None], names: list[str]
) -> None:
    found: list[str] = []
    batches = tuple(ProbeBatch((inputs, labels), labels, inputs) for inputs, labels in data)
    with undisturbed(model):
        probe = Probe(
            model=model, batches=batches, layout=layout, train_samples=50_000, initial_state=initial, notes=found
        )
        computed = compute(probe, names)
    notes |= dict.fromkeys(found)
    if not computed.values:
        raise LookupError("absent: " + "; ".join(reason for why in computed.absent.values() for reason in why.values()))


def fitted(subject: Subject, inputs: Tensor, labels: Tensor, file: Path) -> tuple[nn.Module, State]:
    """The network fitted to the images, from the file where it is there, and its initial state."""
    torch.manual_seed(0)
    model = subject.build()
    initial = copy_state(model)
    if file.is_file():
        model.load_state_dict(torch.load(file))
    else:
        trained(model, inputs, labels, 0.9, most=60)
        torch.save(model.state_dict(), file)
    return model, initial


def cases_of(model: nn.Module, data: Batches, taken: Callable[[list[str]], None]) -> list[Case]:
    """All cases, the cheapest first; `taken` takes measures by their names."""
    cases = []
    for case, names in CASES.items():
        cases.append(Case(case, *declared(names), partial(taken, names)))
    for name, expected, work in peer_cases(model, data):
        cases.append(Case(name, expected, expected, work))
    return sorted(cases, key=lambda case: case.most)


def compared(
    subject: Subject, options: argparse.Namespace, record: dict[str, Any], save: Callable[[], None], file: Path
) -> None:
    """Time what the record lacks."""
    inputs, labels = images(record["source"], SAMPLES, record["data"] and Path(record["data"]), side=32)
    model, initial = fitted(subject, inputs, labels, file)
    record["accuracy"] = accuracy(model, inputs, labels)
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    training = copy.deepcopy(model)
    optimizer = torch.optim.SGD(training.parameters(), 0.001, momentum=0.9)
    first = (inputs[:CHUNK], labels[:CHUNK])
    with undisturbed(model):
        layout = Layout.of(model, ProbeBatch(first, first[1], first[0]), default_forward)
    data = list(zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True))
    notes: dict[str, None] = dict.fromkeys(record.setdefault("notes", []))

    def taken(names: list[str]) -> None:
        measured(model, layout, data, initial, notes, names)

    def saved() -> None:
        record["notes"] = list(notes)
        save()

    forward(model, data[:1])  # warms up
    step(training, optimizer, data[:1])
    cases = [case for case in cases_of(model, data, taken) if not options.only or case.name in options.only]
    units = (partial(forward, model, data), partial(step, training, optimizer, data))
    for number in range(options.rounds):
        wanted = [case for case in cases if not number or case.declared <= subject.repeated]
        time_round(number, wanted, units, record["rows"], saved)


def time_round(
    number: int,
    cases: Sequence[Case],
    units: Sequence[Callable[[], object]],
    rows: dict[str, Any],
    saved: Callable[[], None],
) -> None:
    """Time the cases that have no timing of this round yet, and beside them a plain forward and a training step."""
    beside: tuple[float, ...] = ()
    since = 0.0
    for case in cases:
        row = rows.setdefault(case.name, {"taken": []})
        if "failed" in row or len(row["taken"]) > number:
            continue
        if not beside or since > RENEWED * beside[0]:
            beside, since = tuple(seconds(work) for work in units), 0.0
        spent = 0.0
        try:
            spent = seconds(case.work)
        except Exception as error:
            row["failed"] = str(error) if isinstance(error, LookupError) else f"{type(error).__name__}: {error}"
        else:
            row["taken"].append([spent, *beside])
        since += spent
        saved()
        print(f"round {number + 1}: {case.name}: {spent:.1f} s {row.get('failed', '')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("build/costs.json"), help="file of seconds; the weights go beside it"
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="measures and peers to time; by default all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of peers
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}

    def save() -> None:
        options.out.write_text(json.dumps(records, indent=1))

    for name in options.networks:
        source, data = ("cifar10", str(options.data)) if options.data else ("digits", None)
        record = records.setdefault(name, {"rows": {}})
        record |= {"source": source, "data": data, "machine": machine()}
        compared(SUBJECTS[name], options, record, save, options.out.with_suffix(f".{name}.pt"))
        add(timing(name, case, row["taken"]) for case, row in record["rows"].items() if row["taken"])
        print("\n".join(f"note: {note}" for note in record["notes"]))


if __name__ == "__main__":
    main()
