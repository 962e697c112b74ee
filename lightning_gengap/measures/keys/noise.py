"""Loss and accuracy under changed weights: drawn or worst ones."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key as KeyType
from lightning_gengap.measures.keys._old import Key


def _sharpness() -> dict[str, KeyType]:
    keys: dict[str, KeyType] = {}
    for alpha in (0.001, 0.003, 0.01):
        noise = f"under weight noise {alpha} (10 |w| + 1)"
        keys[f"sharpness/expected_{alpha}"] = Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", "sharpness")
        keys[f"sharpness/expected_{alpha}_drop"] = Key("fraction", -1, 1, f"drop of the accuracy {noise}", "sharpness")
        keys[f"sharpness/kl_{alpha}"] = Key("nats", 0, math.inf, f"divergence from zero {noise}", "sharpness")
        keys[f"sharpness/kl_initial_{alpha}"] = Key(
            "nats", 0, math.inf, f"divergence from the initial weights {noise}", "sharpness"
        )
    for rho in (0.05, 0.1, 0.2):
        noise = f"under weight noise {rho} |w|"
        keys[f"sharpness/adaptive_{rho}"] = Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", "sharpness")
        keys[f"sharpness/adaptive_{rho}_drop"] = Key("fraction", -1, 1, f"drop of the accuracy {noise}", "sharpness")
    return keys


def _adaptive_sharpness() -> dict[str, KeyType]:
    keys: dict[str, KeyType] = {}
    for kind, levels in (("normal", (0.05, 0.1, 0.2, 0.4)), ("uniform", (0.1, 0.2, 0.4, 0.8))):
        for rho in levels:
            key, noise = f"adaptive_sharpness/{kind}_{rho}", f"under {kind} weight noise {rho} |w|"
            rise = f"rise of the loss {noise}"
            keys[key] = Key("nats", -math.inf, math.inf, rise, "adaptive_sharpness")
            keys[f"{key}_normalized"] = Key("nats", -3, 3, f"{rise}, logits normalized", "adaptive_sharpness")
            keys[f"{key}_drop"] = Key("fraction", -1, 1, f"drop of the accuracy {noise}", "adaptive_sharpness")
    return keys


NOISE: dict[str, KeyType] = {
    **_sharpness(),
    **_adaptive_sharpness(),
    "pac_bayes/sigma": Key("weights", 0, 2, "deviation of weight noise that costs 0.1 of the accuracy", "pac_bayes"),
    "pac_bayes/sigma_drop": Key("fraction", -1, 1, "accuracy drop reached at that deviation", "pac_bayes"),
    "pac_bayes/magnitude_sigma": Key(
        "none", 0, 2, "relative deviation of weight noise that costs 0.1 of the accuracy", "pac_bayes"
    ),
    "pac_bayes/magnitude_sigma_drop": Key(
        "fraction", -1, 1, "accuracy drop reached at that relative deviation", "pac_bayes"
    ),
    "pac_bayes/sigma_censored": Key("0 or 1", 0, 1, "1: the deviation is at least that, the range's end", "pac_bayes"),
    "pac_bayes/magnitude_sigma_censored": Key(
        "0 or 1", 0, 1, "1: the relative deviation is at least that, the range's end", "pac_bayes"
    ),
    "pac_bayes/flatness": Key("inverse squared weights", 0, math.inf, "1 / sigma^2", "pac_bayes"),
    "pac_bayes/magnitude_flatness": Key("none", 0, math.inf, "1 / sigma'^2", "pac_bayes"),
    "pac_bayes/origin": Key("nats", 0, math.inf, "squared weights over 4 sigma^2 + log(n / sigma) + 10", "pac_bayes"),
    "pac_bayes/initial": Key(
        "nats", 0, math.inf, "squared distance from start over 4 sigma^2 + log(n / sigma) + 10", "pac_bayes"
    ),
    "pac_bayes/magnitude_origin": Key(
        "nats",
        -math.inf,
        math.inf,
        "relative noise against squared weights, summed logs, + log(n / sigma') + 10",
        "pac_bayes",
    ),
    "pac_bayes/magnitude_initial": Key(
        "nats", 0, math.inf, "relative noise against squared distance from start, likewise", "pac_bayes"
    ),
    "pac_bayes/bound": Key("fraction", 0, math.inf, "bound on the test error; vacuous above 1", "pac_bayes"),
    "worst_case/sharpness": Key(
        "none", 0, math.inf, "100 (worst loss in the 0.001 box - loss) / (1 + loss)", "worst_case"
    ),
    "worst_case/sharpness_0.0005": Key("none", 0, math.inf, "the same in the 0.0005 box", "worst_case"),
    "worst_case/alpha": Key("none", 0, 2, "relative box whose worst point costs 0.1 of the accuracy", "worst_case"),
    "worst_case/alpha_drop": Key("fraction", 0, 1, "accuracy drop reached in that box", "worst_case"),
    "worst_case/alpha_censored": Key("0 or 1", 0, 1, "1: the box is at least that, the range's end", "worst_case"),
    "worst_case/flatness": Key("none", 0, math.inf, "1 / alpha^2", "worst_case"),
}
