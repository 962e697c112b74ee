"""What leaves a key's value as it is: three changes of a network, declared per key and tested. No torch here.

`logits` scales them, by the last layer's weights and bias; `relu` rescales consecutive layers around their ReLUs, one
factor per layer, so that the network computes the same; `batch_norm` rescales the weights in front of a batch norm,
statistics included, so that it computes the same.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

YES, NEARLY, NO, OPEN = "yes", "nearly", "no", "open"
CELLS = {
    YES: "the same value, up to rounding",
    NEARLY: "the same but for a small constant in the definition, such as a floor under the noise",
    NO: "another value",
    OPEN: "nothing is promised: a count, or what a search or an ascent ends at",
}


class Invariance(NamedTuple):
    """Whether a value stays the same, one of `CELLS` for each change."""

    logits: str
    relu: str
    batch_norm: str


# The first pattern that matches a key counts. Columns: logits, relu, batch_norm.
INVARIANCES: dict[str, Invariance] = {
    pattern: Invariance(*cells.split())
    for pattern, cells in {
        "train_accuracy": "yes yes yes",
        "train_loss": "no yes yes",
        "train_confidence": "no yes yes",
        "margin/output/*": "no yes yes",
        "margin/input/*": "yes yes yes",
        "margin/*/total_variation": "yes no open",
        "margin/*": "yes yes yes",
        "norm/spectral_change": "open open open",
        "norm/*": "no yes yes",
        "perturbation/*": "yes yes yes",
        "augmentation/*_loss": "no yes yes",
        "augmentation/*": "yes yes yes",
        "perturbed_margin/*": "yes yes yes",
        "difficulty/*": "yes yes yes",
        "input_difficulty/*": "yes yes yes",
        "kernel_difficulty/*": "yes yes yes",
        "representation/*": "yes yes yes",
        "calibration/*": "no yes yes",
        "path_norm/*over_margin": "yes yes yes",
        "path_norm/*": "no yes yes",
        "complexity/parameters": "yes yes yes",
        "complexity/*over_margin*": "yes yes yes",
        "complexity/frobenius_over_spectral*": "yes yes yes",
        "complexity/log_spectral_origin*": "yes yes yes",
        "complexity/log_spectral_initial*": "no no yes",
        "complexity/distance_spectral*": "no no yes",
        "complexity/*": "no yes yes",
        "norm_product/*_over_margin": "yes yes yes",
        "norm_product/log_bound_spectral_*": "no no yes",
        "norm_product/log_bound_*": "yes yes yes",
        "norm_product/*": "no yes yes",
        "distance/*": "no no yes",
        "bartlett/log_complexity*": "no yes yes",
        "bartlett/*": "yes yes yes",
        "k_variance/*": "yes yes yes",
        "separability/*": "yes yes yes",
        "gradient_noise/signal": "no nearly nearly",
        "gradient_noise/*": "no no no",
        "sharpness/adaptive_*_drop": "yes yes yes",
        "sharpness/adaptive_*": "no yes yes",
        "sharpness/*_drop": "open open yes",
        "sharpness/*": "no no yes",
        "adaptive_sharpness/*_drop": "yes yes yes",
        "adaptive_sharpness/*_normalized": "yes yes yes",
        "adaptive_sharpness/*": "no yes yes",
        "pac_bayes/*_censored": "open open yes",
        "pac_bayes/magnitude_sigma": "nearly nearly yes",
        "pac_bayes/magnitude_sigma_drop": "nearly nearly yes",
        "pac_bayes/magnitude_flatness": "nearly nearly yes",
        "pac_bayes/*_drop": "open open yes",
        "pac_bayes/*": "no no yes",
        "worst_case/sharpness*": "no no yes",
        "worst_case/*": "open yes yes",
        "curvature/lambda*": "yes yes yes",
        "curvature/kronecker/share": "yes yes yes",
        "curvature/*samples": "yes yes yes",
        "curvature/*parameters": "yes yes yes",
        "curvature/*products": "open open open",
        "curvature/rung": "open open open",
        "curvature/hessian/soft_rank_clamped": "no no no",
        "curvature/hessian/trace": "no no no",
        "curvature/hessian/top_eigenvalue": "no no no",
        "curvature/hessian/*": "open open open",
        "curvature/*": "no no no",
        "loo/*/accuracy_gap": "open open open",
        "loo/*/leverage": "open open open",
        "loo/last_layer/loss_gap": "no no yes",
        "loo/network/loss_gap": "no no no",
        "loo/*": "yes yes yes",
    }.items()
}


def invariance_of(key: str) -> Invariance | None:
    """What is declared for a key; None where nothing is."""
    return next((cells for pattern, cells in INVARIANCES.items() if fnmatchcase(key, pattern)), None)
