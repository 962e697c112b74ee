"""Which samples look mislabelled: those whose label a confident reference contradicts, which has not seen it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gengap.measures.agreement.references import REFERENCES

NETWORK = "agreement/network"  # what the network says, in the probe's memory
TARGETS = "agreement/targets"


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
    """The samples that look mislabelled, most suspicious first, from what the measure `agreement` keeps.

    The reference that is right most often decides, by the rule of confident learning (Northcutt et al. 2021, arXiv
    1911.00068): it takes another class for the most probable one, and for more probable than it takes, on average, the
    label of the samples that are labelled so.
    """
    targets = memory.get(TARGETS)
    answers = [_answer(memory, name) for name in REFERENCES]
    known = [answer for answer in answers if answer is not None]
    if targets is None or not known:
        return []
    rows, predicted, shares = max(known, key=lambda answer: float((answer[1] == targets[answer[0]]).double().mean()))
    labels = targets[rows]
    found = suspicious(predicted, shares[:, 0].double(), shares[:, 1].double(), labels)
    scores = shares[:, 1] - shares[:, 0]
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if bool(found[i])]
    return [Mislabelled(int(rows[i]), int(labels[i]), int(predicted[i]), float(scores[i])) for i in order]


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


def _answer(memory: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows, predicted classes and shares of a reference; None where it was not asked."""
    parts = [memory.get(f"out_of_fold/{name}/{part}") for part in ("rows", "predicted", "shares")]
    if parts[0] is None or parts[1] is None or parts[2] is None:
        return None
    return parts[0], parts[1], parts[2]
