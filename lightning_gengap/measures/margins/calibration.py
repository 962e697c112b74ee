"""How far the confidence on the training samples is from their accuracy, and how spread the probabilities are."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_gengap.measures.key import FUNCTION, Key
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

BINS = 15
KEYS = {
    f"calibration/error_{BINS}": Key(
        "fraction", 0, 1, f"expected calibration error on the probe, {BINS} bins", FUNCTION
    ),
    "calibration/entropy": Key("nats", 0, math.inf, "mean entropy of the probabilities on the probe", FUNCTION),
}


def calibration(probe: Probe) -> Values:
    """Expected calibration error and mean entropy of the softmax probabilities on the probe.

    Keys: `calibration/error_15` is the sum over 15 equal bins b of the largest probability of (|b| / examples)
    |accuracy_b - confidence_b|. `calibration/entropy` is the mean of -sum_k p_k log p_k, at most log classes. Samples
    that are interpolated are calibrated whatever the gap is: these describe the state of training, and estimate
    nothing.

    Cost: none, the forward of `fit` is shared. Reference: Guo et al. 2017 (arXiv 1706.04599).
    """
    logits = probe.cached(clean_logits)
    return {
        f"calibration/error_{BINS}": expected_calibration_error(logits, probe.targets),
        "calibration/entropy": mean_entropy(logits),
    }


def expected_calibration_error(logits: Tensor, targets: Tensor) -> float:
    """Mean distance of accuracy and confidence over equal bins of confidence, weighted by their shares."""
    probabilities = logits.softmax(1)
    return float(
        multiclass_calibration_error(
            probabilities, targets, num_classes=logits.shape[1], n_bins=BINS, norm="l1", validate_args=False
        )
    )


def mean_entropy(logits: Tensor) -> float:
    """Mean entropy of the softmax of each row, in nats; a probability of zero contributes zero."""
    logs = logits.log_softmax(1)
    return float(-(logs.exp() * logs).nan_to_num(0.0).sum(dim=1).mean())
