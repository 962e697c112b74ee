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
