"""What the network does with the samples: logits, margins, features, and how hard the samples are."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key as KeyType
from lightning_gengap.measures.keys._old import Key


def _variants() -> dict[str, KeyType]:
    """Difficulty without the network or with its tangent kernel, hidden layers now, margins of perturbed images."""
    keys: dict[str, KeyType] = {}
    left_out = "leave-one-out ridge accuracy"
    for measure, name, words in (
        ("input_difficulty", "ridge", "on the inputs"),
        ("input_difficulty", "convolution", "on random convolutions of the images"),
        ("input_difficulty", "patch", "on convolutions of the whitened images with patches of their own"),
        ("kernel_difficulty", "ridge", "with the untrained network's tangent kernel"),
        ("representation", "ridge", "on the hidden layers now"),
        ("representation", "h3/ridge", "on h3 now"),
    ):
        keys[f"{measure}/{name}_accuracy"] = Key("fraction", 0, 1, f"{left_out} {words}", measure)
    growth = f"{left_out} on the hidden layers, now minus at the initial weights"
    keys["representation/ridge_growth"] = Key("fraction", -1, 1, growth, "representation")
    error = "squared error of the left-out scores on the hidden layers now, over the labels' variance"
    keys["representation/ridge_error"] = Key("none", 0, math.inf, error, "representation")
    for layer in ("h1", "h2", "h3"):
        for k in (1, 10):
            meaning = f"leave-one-out {k}-nearest-neighbour accuracy at {layer} now"
            keys[f"representation/{layer}/neighbour_{k}_accuracy"] = Key("fraction", 0, 1, meaning, "representation")
    for kind, words in {"mix": "same-class half-half mixes", "augment": "flipped and shifted images"}.items():
        for statistic in ("mean", "median"):
            meaning = f"{statistic} normalized margin of {words} at the first layer"
            keys[f"perturbed_margin/{kind}_{statistic}"] = Key("none", -math.inf, math.inf, meaning, "perturbed_margin")
    return keys


def _learning_curves() -> dict[str, KeyType]:
    """Leave-one-out accuracies as functions of the number of samples."""
    kinds = {
        "input_difficulty/convolution": "ridge accuracy on random convolutions",
        "input_difficulty/patch": "ridge accuracy on convolutions with the images' own patches",
        "difficulty/ridge": "ridge accuracy on the untrained network's features",
        "difficulty/neighbour_10": "10-nearest-neighbour accuracy",
    }
    keys: dict[str, KeyType] = {}
    for name, words in kinds.items():
        measure, meaning = name.partition("/")[0], f"leave-one-out {words}"
        keys[f"{name}_growth"] = Key("fraction", -1, 1, f"{meaning}, less that with half of the samples", measure)
        keys[f"{name}_extrapolated"] = Key("fraction", 0, 1, f"{meaning}, extrapolated to the train size", measure)
    return keys


def _augmentation() -> dict[str, KeyType]:
    kinds = {
        "shift": "flipped and shifted images, mean over three draws",
        "far_shift": "images shifted by up to a quarter of the side",
        "turn": "rotated images",
        "zoom": "magnified images",
        "contrast": "images of other contrast and brightness",
        "cutout": "images with a square set to zero",
        "blend": "images blended with others",
        "all": "images flipped, shifted, turned, magnified and contrasted",
    }
    keys: dict[str, KeyType] = {}
    for kind, words in kinds.items():
        keys[f"augmentation/{kind}_accuracy"] = Key("fraction", 0, 1, f"accuracy on {words}", "augmentation")
        keys[f"augmentation/{kind}_loss"] = Key("nats", 0, math.inf, f"mean cross-entropy on {words}", "augmentation")
    return keys


SAMPLES: dict[str, KeyType] = {
    "train_accuracy": Key("fraction", 0, 1, "accuracy on the probe, eval mode, labels as trained", "fit"),
    "train_loss": Key("nats", 0, math.inf, "mean cross-entropy on the probe, eval mode", "fit"),
    "train_confidence": Key("fraction", 0, 1, "mean largest probability on the probe", "fit"),
    **_augmentation(),
    "perturbation/mix_accuracy": Key("fraction", 0, 1, "accuracy on same-class half-half mixes", "perturbation"),
    "perturbation/augment_accuracy": Key("fraction", 0, 1, "accuracy on flipped and shifted images", "perturbation"),
    "perturbation/discounted_accuracy": Key(
        "fraction", -1, 1, "that accuracy, less where hardly anything is lost on such images", "perturbation"
    ),
    "perturbation/excess_by_size": Key(
        "none",
        0,
        math.inf,
        "with input_difficulty: discounted accuracy beyond its patches' one, by the log of the train size over 2,000",
        "perturbation",
    ),
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
    **_learning_curves(),
    "difficulty/class_mean_accuracy": Key("fraction", 0, 1, "leave-one-out nearest-class-mean accuracy", "difficulty"),
    **_variants(),
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
}
