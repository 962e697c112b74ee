"""Which samples look mislabelled: those whose label a confident reference contradicts, which has not seen it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gengap.measures.agreement.references import REFERENCES

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


def suspects(memory: Mapping[str, Tensor]) -> list[Mislabelled]:
    """The samples that look mislabelled, most suspicious first, from what a probe's memory keeps.

    The reference that is right most often decides, by the rule of confident learning (Northcutt et al. 2021, arXiv
    1911.00068): it takes another class for the most probable one, and for at least as probable as it takes, on average,
    the labels of the samples that are labelled so. Where the agreement was measured several times in a training, the
    network that agreed most must contradict the label too: it had not memorised it yet. There are none where no
    reference was asked.
    """
    answers = {name: answer for name in REFERENCES if (answer := _answer(memory, name)) is not None}
    if not answers:
        return []
    best = max(answers, key=lambda name: float((answers[name][1] == answers[name][2]).double().mean()))
    rows, labels, predicted, shares = answers[best]
    of_label, of_predicted = shares.double().unbind(1)
    found = suspicious(predicted, of_label, of_predicted, labels)
    network, seen = (memory.get(f"agreement/{best}/{part}") for part in ("network", "seen"))
    if network is not None and seen is not None and float(seen[1]) >= SEVERAL and len(network) == len(labels):
        found &= network != labels
    scores = of_predicted - of_label
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if bool(found[i])]
    return [Mislabelled(int(rows[i]), int(labels[i]), int(predicted[i]), float(scores[i])) for i in order]


def remember(memory: dict[str, Tensor], name: str, predicted: Tensor, share: float) -> None:
    """Keep what the network predicts where it agrees more with this reference than ever before."""
    parts = {part: f"agreement/{name}/{part}" for part in ("network", "seen")}  # seen: the share, and how many times
    highest, times = memory.get(parts["seen"], torch.tensor([-1.0, 0.0])).tolist()
    if share >= highest or len(memory[parts["network"]]) != len(predicted):
        memory[parts["network"]], highest = predicted.clone(), share
    memory[parts["seen"]] = torch.tensor([highest, times + 1])


def suspicious(predicted: Tensor, of_label: Tensor, of_predicted: Tensor, labels: Tensor) -> Tensor:
    """Which labels are contradicted with more confidence than the labels of the predicted class have on average.

    Args:
        predicted: the most probable class of each sample, shape (samples,).
        of_label: how probable the given label is.
        of_predicted: how probable the predicted class is.
        labels: the given ones.
    """
    classes = int(torch.maximum(predicted.max(), labels.max())) + 1
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, dtype=of_label.dtype).index_add_(0, labels, of_label)
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    return (predicted != labels) & (of_predicted >= thresholds[predicted])


def _answer(memory: Mapping[str, Tensor], name: str) -> list[Tensor] | None:
    """Rows, labels, predicted classes and shares of a reference; None where it was not asked."""
    parts = [memory.get(f"out_of_fold/{name}/{part}") for part in ("rows", "labels", "predicted", "shares")]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None
