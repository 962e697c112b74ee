"""Which samples look mislabelled: those whose label a confident reference contradicts, which has not seen it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gengap.measures.agreement.references import REFERENCES

_READ = ("rows", "labels", "predicted", "shares", "contradicted")
SEVERAL = 3  # measurements of the agreement, one of which may have come before the network had memorised much


class Mislabelled(NamedTuple):
    """A sample that looks mislabelled.

    Attributes:
        sample: its index in the data set, where that is known; else its place among the monitored samples.
        label: the given class.
        suggested: the class that the reference gives.
        score: how much more probable the suggested class is than the given one, in (0, 1].
    """

    sample: int
    label: int
    suggested: int
    score: float


def suspects(memory: Mapping[str, Tensor], from_scratch: bool = True) -> list[Mislabelled]:
    """The samples that look mislabelled, most suspicious first, from what a probe's memory keeps.

    The reference that is right most often decides, by the rule of `contradicted`. Where the agreement was measured
    several times in a training, the network that agreed most must contradict the label too: it had not memorised it
    yet. It may have where training was not `from_scratch`. There are none where no reference was asked.
    """
    answers = {name: answer for name in REFERENCES if (answer := _answer(memory, name)) is not None}
    if not answers:
        return []
    best = max(answers, key=lambda name: float((answers[name][1] == answers[name][2]).double().mean()))
    rows, labels, predicted, shares, found = answers[best]
    network, seen = (memory.get(f"agreement/{best}/{part}") for part in ("network", "seen"))
    several = from_scratch and seen is not None and float(seen[1]) >= SEVERAL
    if several and network is not None and len(network) == len(labels):
        found = found & (network != labels)
    scores = shares[:, 1] - shares[:, 0]
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if bool(found[i])]
    return [Mislabelled(int(rows[i]), int(labels[i]), int(predicted[i]), float(scores[i])) for i in order]


def remember(memory: dict[str, Tensor], name: str, predicted: Tensor, share: float) -> None:
    """Keep what the network predicts where it agrees more with this reference than ever before."""
    parts = {part: f"agreement/{name}/{part}" for part in ("network", "seen")}  # seen: the share, and how many times
    highest, times = memory.get(parts["seen"], torch.tensor([-1.0, 0.0])).tolist()
    if share >= highest or len(memory[parts["network"]]) != len(predicted):
        memory[parts["network"]], highest = predicted.clone(), share
    memory[parts["seen"]] = torch.tensor([highest, times + 1])


def contradicted(shares: Tensor, ranks: Tensor) -> Tensor:
    """Which labels confident learning contradicts (Northcutt et al. 2021, arXiv 1911.00068).

    The threshold of a class is the mean share that it has among the samples that are labelled so. A label is
    contradicted where it is not the most probable class, nor the most probable of those that reach their threshold.

    Args:
        shares: how probable each class is for each sample, not having seen its label, shape (samples, classes).
        ranks: the labels, among these classes.
    """
    own = shares.gather(1, ranks[:, None])[:, 0]
    counts = torch.bincount(ranks, minlength=shares.shape[1])
    sums = torch.zeros(shares.shape[1], dtype=shares.dtype).index_add_(0, ranks, own)
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    reached = torch.where(shares >= thresholds, shares, -1.0)
    confident = reached.amax(1) > reached.gather(1, ranks[:, None])[:, 0]  # a tie contradicts nothing
    return confident & (shares.amax(1) > own)


def _answer(memory: Mapping[str, Tensor], name: str) -> list[Tensor] | None:
    """What is kept of the answer of a reference, as `_READ` has it; None where it was not asked."""
    parts = [memory.get(f"out_of_fold/{name}/{part}") for part in _READ]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None
