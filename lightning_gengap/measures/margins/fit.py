"""How well the training samples are fitted: accuracy, loss and confidence, clean and in eval mode."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.key import FUNCTION, INVARIANT, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

KEYS = {
    "train_accuracy": Key(
        "fraction", 0, 1, "accuracy on the probe, eval mode, labels as trained", INVARIANT, better="higher"
    ),
    "train_loss": Key("nats", 0, math.inf, "mean cross-entropy on the probe, eval mode", FUNCTION, better="lower"),
    "train_confidence": Key("fraction", 0, 1, "mean largest probability on the probe", FUNCTION),
}


def fit(probe: Probe) -> Values:
    """Accuracy, mean cross-entropy and mean confidence on the probe, with the labels as trained.

    Keys `train_accuracy`, `train_loss` and `train_confidence`. Cost: one forward pass, which is shared.
    Reference: none.
    """
    logits = probe.cached(clean_logits)
    return {
        "train_accuracy": float(probe.cached(right).double().mean()),
        "train_loss": float(cross_entropy(logits, probe.targets)),
        "train_confidence": float(logits.softmax(1).amax(1).mean()),
    }


def right(probe: Probe) -> Tensor:
    """Whether each sample is classified right, shape (examples,), on the CPU: one forward, which is shared."""
    return probe.cached(clean_logits).argmax(1) == probe.targets


def clean_logits(probe: Probe) -> Tensor:
    """The logits of all samples, shape (examples, classes), float64, on the CPU: one forward."""
    return probe.all_logits()
