"""Gradients, the curvature of the loss, and leave-one-out."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key as KeyType
from lightning_gengap.measures.keys._old import Key


def _curvature() -> dict[str, KeyType]:
    entries = {
        "soft_rank": ("directions", math.inf, "Gauss-Newton directions that outweigh the ridge curvature/lambda"),
        "soft_rank_lower": ("directions", math.inf, "lower end of the bracket of the random start's exact form"),
        "soft_rank_upper": ("directions", math.inf, "upper end of that bracket"),
        **{
            f"soft_rank_{ridge}": ("directions", math.inf, f"soft rank at ridge {ridge}, from the same run")
            for ridge in ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
        },
        "lambda": ("ridge", math.inf, "weight decay on the mean loss, its geometric mean, or its assumed value"),
        "lambda_assumed": ("0 or 1", 1, "1: the weight decay is unknown or zero, and the ridge an assumption"),
        "lambda_varies": ("0 or 1", 1, "1: the ridge differs between parameters, by group or by AdamW's metric"),
        "samples": ("samples", math.inf, "samples that the curvature is of; the soft rank grows with them"),
        "parameters": ("parameters", math.inf, "trained parameters"),
        "trace": ("nats per squared parameter", math.inf, "trace of the Gauss-Newton matrix, by the same start"),
        "top_eigenvalue": ("nats per squared parameter", math.inf, "its largest eigenvalue, from below"),
        "top_eigenvalue_2": ("nats per squared parameter", math.inf, "its second largest eigenvalue, from below"),
        "top_eigenvalue_3": ("nats per squared parameter", math.inf, "its third largest eigenvalue, from below"),
        "products": ("products", math.inf, "products with the curvature that were needed"),
        "rung": ("1 to 3", 3, "1 linearisation, 2 double backward, 3 graphs rebuilt for every product"),
    }
    keys = {
        f"curvature/{name}": Key(unit, 0, high, meaning, "soft_rank") for name, (unit, high, meaning) in entries.items()
    }
    for name, key in list(keys.items()):
        short = name.removeprefix("curvature/")
        if short.startswith("soft_rank") or short in ("samples", "parameters", "trace", "products"):
            words = key.meaning if short == "parameters" else f"{key.meaning}; on all samples of the probe"
            keys[f"curvature/full/{short}"] = Key(key.unit, key.low, key.high, words, "full_soft_rank")
    keys["curvature/tic"] = Key("nats", 0, math.inf, "Takeuchi's information criterion per sample", "tic")
    return keys | _sizes("tic", "tic")


def _sizes(part: str, measure: str) -> dict[str, KeyType]:
    """What every value of a curvature has to be read with, from the measure that gives it."""
    return {
        f"curvature/{part}/samples": Key("samples", 1, math.inf, "samples that the curvature is of", measure),
        f"curvature/{part}/parameters": Key("parameters", 1, math.inf, "trained parameters", measure),
    }


def _curvature_variants() -> dict[str, KeyType]:
    """What other matrices than the Gauss-Newton matrix give: approximations, none of them the headline."""
    none, curvature = math.inf, "nats per squared parameter"
    entries = {
        "diagonal/soft_rank": ("directions", 0, none, "approximation: the soft rank by the exact diagonal, from above"),
        "diagonal/tic": ("nats", 0, none, "approximation: Takeuchi's criterion by the exact diagonal"),
        "diagonal/trace": (curvature, 0, none, "trace of the Gauss-Newton matrix, exact"),
        "kronecker/soft_rank": ("directions", 0, none, "approximation: the soft rank by Kronecker factors (KFAC)"),
        "kronecker/share": ("fraction", 0, 1, "share of the parameters with such factors; others by their diagonal"),
        "hessian/soft_rank_clamped": ("directions", 0, none, "the same sum of the Hessian's positive eigenvalues"),
        "hessian/spread": ("none", 0, none, "half the distance of the two rules for that sum, relative"),
        "hessian/trace": (curvature, -none, none, "the Hessian's trace, by the same start"),
        "hessian/top_eigenvalue": (curvature, -none, none, "the Hessian's largest eigenvalue, from below"),
        "hessian/negative_mass": ("fraction", 0, 1, "share of the Hessian's absolute eigenvalues that is negative"),
        "hessian/smallest": (curvature, -none, none, "the Hessian's smallest eigenvalue, from above"),
        "hessian/flagged": ("0 or 1", 0, 1, "1: that is below minus the ridge, no minimum of the penalised loss"),
        "hessian/products": ("products", 0, none, "products with the Hessian that were needed"),
    }
    measures = {"diagonal": "diagonal_curvature", "kronecker": "kronecker_curvature", "hessian": "hessian"}
    keys = {
        f"curvature/{name}": Key(unit, low, high, meaning, measures[name.partition("/")[0]])
        for name, (unit, low, high, meaning) in entries.items()
    }
    for part, measure in measures.items():
        keys |= _sizes(part, measure)
    return keys


def _leave_one_out() -> dict[str, KeyType]:
    keys: dict[str, KeyType] = {}
    for part, measure, whose in (
        ("last_layer", "leave_one_out", "the last layer's weights"),
        ("network", "network_leave_one_out", "all weights"),
    ):
        gap = f"approximate leave-one-out gap of {whose}"
        keys[f"loo/{part}/accuracy_gap"] = Key("fraction", -1, 1, f"{gap}, train minus left out", measure)
        keys[f"loo/{part}/loss_gap"] = Key("nats", -math.inf, math.inf, f"{gap}, left out minus train", measure)
        keys[f"loo/{part}/leverage"] = Key("fraction", 0, 1, "share of samples whose leverage exceeds 0.99", measure)
    exact = "1: by the dense curvature of the layer; 0: by its Kronecker approximation"
    keys["loo/last_layer/exact"] = Key("0 or 1", 0, 1, exact, "leave_one_out")
    samples = "samples that stand for the training set"
    keys["loo/last_layer/samples"] = Key("samples", 1, math.inf, samples, "leave_one_out")
    keys["loo/network/samples"] = Key("samples", 1, math.inf, samples, "network_leave_one_out")
    return keys


CURVATURE: dict[str, KeyType] = {
    "gradient_noise/trace": Key(
        "squared nats per squared weight", 0, math.inf, "summed variance of per-sample gradients", "gradient_noise"
    ),
    "gradient_noise/signal": Key(
        "none", 0, math.inf, "mean of squared mean over variance of per-sample gradients", "gradient_noise"
    ),
    "gradient_noise/curvature": Key(
        "nats per squared weight", 0, math.inf, "trace of the Gauss-Newton matrix, estimated", "gradient_noise"
    ),
    "gradient_noise/criterion": Key(
        "nats", 0, math.inf, "gradient variance over samples times Gauss-Newton trace", "gradient_noise"
    ),
    **_curvature(),
    **_curvature_variants(),
    **_leave_one_out(),
}
