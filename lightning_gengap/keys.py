"""Every key that is logged or can be a predictor's feature: its unit, range and meaning. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

PREFIX = "gengap/"


@dataclass(frozen=True)
class Key:
    """One logged quantity.

    Attributes:
        measure: the measure that yields it; empty for facts of the run and for predictions.
    """

    unit: str
    low: float
    high: float
    meaning: str
    measure: str = ""


def _margins() -> dict[str, Key]:
    statistics = {
        "lower_whisker": "lower Tukey whisker",
        "q1": "first quartile",
        "median": "median",
        "q3": "third quartile",
        "upper_whisker": "upper Tukey whisker",
    }
    keys: dict[str, Key] = {}
    for layer in ("input", "h1", "h2", "h3"):
        for name, words in statistics.items():
            meaning = f"{words} of the normalized margin at {layer}, correctly classified samples"
            keys[f"margin/{layer}/{name}"] = Key("none", 0, math.inf, meaning, "margin")
        keys[f"margin/{layer}/total_variation"] = Key(
            "activation", 0, math.inf, f"total variation of the activations at {layer}", "margin"
        )
    for name, words in {"q05": "5 % quantile", "q10": "10 % quantile", "median": "median", "mean": "mean"}.items():
        keys[f"margin/output/{name}"] = Key("logits", -math.inf, math.inf, f"{words} of the output margin", "margin")
    return keys


def _sharpness() -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for alpha in (0.001, 0.003, 0.01):
        noise = f"under weight noise {alpha} (10 |w| + 1)"
        keys[f"sharpness/expected_{alpha}"] = Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", "sharpness")
        keys[f"sharpness/kl_{alpha}"] = Key("nats", 0, math.inf, f"divergence from zero {noise}", "sharpness")
        keys[f"sharpness/kl_initial_{alpha}"] = Key(
            "nats", 0, math.inf, f"divergence from the initial weights {noise}", "sharpness"
        )
    for rho in (0.05, 0.1, 0.2):
        noise = f"under weight noise {rho} |w|"
        keys[f"sharpness/adaptive_{rho}"] = Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", "sharpness")
        keys[f"sharpness/adaptive_{rho}_drop"] = Key("fraction", -1, 1, f"drop of the accuracy {noise}", "sharpness")
    return keys


def _curvature() -> dict[str, Key]:
    entries = {
        "soft_rank": ("directions", math.inf, "Gauss-Newton directions that outweigh the ridge curvature/lambda"),
        "soft_rank_lower": ("directions", math.inf, "lower end of the bracket of the random start's exact form"),
        "soft_rank_upper": ("directions", math.inf, "upper end of that bracket"),
        **{
            f"soft_rank_{ridge}": ("directions", math.inf, f"soft rank at ridge {ridge}, from the same run")
            for ridge in ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
        },
        "lambda": ("ridge", math.inf, "weight decay on the mean loss, or its assumed value"),
        "lambda_assumed": ("0 or 1", 1, "1: the weight decay is unknown or zero, and the ridge an assumption"),
        "samples": ("samples", math.inf, "samples that the curvature is of; the soft rank grows with them"),
        "parameters": ("parameters", math.inf, "trained parameters"),
        "trace": ("nats per squared parameter", math.inf, "trace of the Gauss-Newton matrix, by the same start"),
        "top_eigenvalue": ("nats per squared parameter", math.inf, "its largest eigenvalue, from below"),
        "products": ("products", math.inf, "products with the curvature that were needed"),
        "rung": ("1 to 3", 3, "1 linearisation, 2 double backward, 3 graphs rebuilt for every product"),
    }
    keys = {
        f"curvature/{name}": Key(unit, 0, high, meaning, "soft_rank") for name, (unit, high, meaning) in entries.items()
    }
    return keys | {"curvature/tic": Key("nats", 0, math.inf, "Takeuchi's information criterion per sample", "tic")}


def _leave_one_out() -> dict[str, Key]:
    keys: dict[str, Key] = {}
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
    keys["loo/network/samples"] = Key("samples", 1, math.inf, samples, "network_leave_one_out")
    return keys


MEASURED: dict[str, Key] = {
    "train_accuracy": Key("fraction", 0, 1, "accuracy on the probe, eval mode, labels as trained", "fit"),
    "train_loss": Key("nats", 0, math.inf, "mean cross-entropy on the probe, eval mode", "fit"),
    "train_confidence": Key("fraction", 0, 1, "mean largest probability on the probe", "fit"),
    "train_samples": Key("samples", 1, math.inf, "distinct samples trained on"),
    "classes": Key("classes", 2, math.inf, "number of logits"),
    "classes_present": Key("classes", 1, math.inf, "classes that occur in the probe"),
    "probe_samples": Key("samples", 1, math.inf, "samples in the probe"),
    "progress": Key("fraction", 0, 1, "share of the planned training steps taken"),
    "speed/train_loss_mean": Key("nats", 0, math.inf, "running mean of the steps' training loss"),
    **_margins(),
    "margin/correct_fraction": Key("fraction", 0, 1, "share of the probe with a positive margin", "margin"),
    "norm/log_product_spectral": Key("log", -math.inf, math.inf, "sum of log squared spectral norms", "norm"),
    "norm/log_product_frobenius": Key("log", -math.inf, math.inf, "sum of log squared Frobenius norms", "norm"),
    "norm/log_sum_spectral": Key("log", -math.inf, math.inf, "log of d times their geometric mean, spectral", "norm"),
    "norm/log_sum_frobenius": Key("log", -math.inf, math.inf, "log of d times their geometric mean, Frobenius", "norm"),
    "norm/spectral_change": Key("fraction", 0, 1, "last relative change of the power iteration", "norm"),
    "perturbation/mix_accuracy": Key("fraction", 0, 1, "accuracy on same-class half-half mixes", "perturbation"),
    "perturbation/augment_accuracy": Key("fraction", 0, 1, "accuracy on flipped and shifted images", "perturbation"),
    **{
        f"perturbation/noise_{level}_accuracy": Key(
            "fraction", 0, 1, f"accuracy under Gaussian input noise of {level} deviations", "perturbation"
        )
        for level in (0.1, 0.3, 0.6)
    },
    "difficulty/ridge_accuracy": Key(
        "fraction", 0, 1, "leave-one-out ridge accuracy on the untrained network's features", "difficulty"
    ),
    "difficulty/excess_accuracy": Key(
        "fraction", -1, 1, "train accuracy minus that leave-one-out ridge accuracy", "difficulty"
    ),
    "difficulty/neighbour_1_accuracy": Key(
        "fraction", 0, 1, "leave-one-out 1-nearest-neighbour accuracy", "difficulty"
    ),
    "difficulty/neighbour_10_accuracy": Key(
        "fraction", 0, 1, "leave-one-out 10-nearest-neighbour accuracy", "difficulty"
    ),
    "difficulty/class_mean_accuracy": Key("fraction", 0, 1, "leave-one-out nearest-class-mean accuracy", "difficulty"),
    "path_norm/log": Key("log", -math.inf, math.inf, "log of the sum over paths of squared weights", "path_norm"),
    "path_norm/log_over_margin": Key(
        "log", -math.inf, math.inf, "that minus twice the log of the margin's 10 % quantile", "path_norm"
    ),
    "distance/frobenius": Key(
        "squared weights", 0, math.inf, "squared Frobenius distance from the initial weights", "distance"
    ),
    "distance/spectral": Key(
        "squared weights", 0, math.inf, "sum of squared spectral norms of the layers' changes", "distance"
    ),
    "distance/parameter_norm": Key("squared weights", 0, math.inf, "squared Frobenius norm of the weights", "distance"),
    **{
        f"bartlett/{name}": Key(
            "none", -math.inf, math.inf, f"{words} of the margin over spectral complexity", "bartlett"
        )
        for name, words in (("q05", "5 % quantile"), ("q10", "10 % quantile"), ("median", "median"))
    },
    "bartlett/log_complexity": Key(
        "log", -math.inf, math.inf, "log of spectral complexity times input norm over samples", "bartlett"
    ),
    "calibration/error_15": Key("fraction", 0, 1, "expected calibration error on the probe, 15 bins", "calibration"),
    "calibration/entropy": Key("nats", 0, math.inf, "mean entropy of the probabilities on the probe", "calibration"),
    **{
        f"k_variance/{layer}": Key(
            "none", -math.inf, math.inf, f"median margin over the classes' Wasserstein spread at {layer}", "k_variance"
        )
        for layer in ("h1", "h2", "h3")
    },
    "k_variance/classes": Key("classes", 1, math.inf, "classes with two samples or more in the probe", "k_variance"),
    "separability/davies_bouldin": Key(
        "none", 0, math.inf, "Davies-Bouldin index of the classes at the first layer", "separability"
    ),
    "separability/score": Key(
        "none", 0, math.inf, "that index times the error on same-class half-half mixes", "separability"
    ),
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
    **_sharpness(),
    "pac_bayes/sigma": Key("weights", 0, 2, "deviation of weight noise that costs 0.1 of the accuracy", "pac_bayes"),
    "pac_bayes/sigma_drop": Key("fraction", -1, 1, "accuracy drop reached at that deviation", "pac_bayes"),
    "pac_bayes/magnitude_sigma": Key(
        "none", 0, 2, "relative deviation of weight noise that costs 0.1 of the accuracy", "pac_bayes"
    ),
    "pac_bayes/magnitude_sigma_drop": Key(
        "fraction", -1, 1, "accuracy drop reached at that relative deviation", "pac_bayes"
    ),
    "pac_bayes/flatness": Key("inverse squared weights", 0, math.inf, "1 / sigma^2", "pac_bayes"),
    "pac_bayes/magnitude_flatness": Key("none", 0, math.inf, "1 / sigma'^2", "pac_bayes"),
    "pac_bayes/origin": Key("nats", 0, math.inf, "squared weights over 4 sigma^2 + log(n / sigma) + 10", "pac_bayes"),
    "pac_bayes/initial": Key(
        "nats", 0, math.inf, "squared distance from start over 4 sigma^2 + log(n / sigma) + 10", "pac_bayes"
    ),
    "pac_bayes/bound": Key("fraction", 0, math.inf, "bound on the test error; vacuous above 1", "pac_bayes"),
    "worst_case/sharpness": Key(
        "none", 0, math.inf, "100 (worst loss in the 0.001 box - loss) / (1 + loss)", "worst_case"
    ),
    "worst_case/alpha": Key("none", 0, 2, "relative box whose worst point costs 0.1 of the accuracy", "worst_case"),
    "worst_case/alpha_drop": Key("fraction", 0, 1, "accuracy drop reached in that box", "worst_case"),
    "worst_case/flatness": Key("none", 0, math.inf, "1 / alpha^2", "worst_case"),
    **_curvature(),
    **_leave_one_out(),
}

PREDICTED: dict[str, Key] = {
    "predicted_gap": Key("fraction", 0, 1, "predicted train minus test accuracy"),
    "predicted_gap_lower": Key("fraction", -1, 1, "lower end of its interval"),
    "predicted_gap_upper": Key("fraction", 0, 1, "upper end of its interval"),
    "predicted_test_accuracy": Key("fraction", 0, 1, "train accuracy minus predicted gap"),
    "in_support": Key("0 or 1", 0, 1, "1: the predictor was fitted on models like this one"),
    "status": Key("0 to 4", 0, 4, "0 fresh, 1 held by schedule or budget, 2 held after a failure, 3 abstaining, 4 off"),
    "actual_gap": Key("fraction", -1, 1, "train accuracy minus validation accuracy, in epochs with validation"),
    "overhead": Key("share", 0, math.inf, "time spent measuring over time spent training, so far"),
}
