"""PAC-Bayes measures: the noise on the weights that costs a tenth of the accuracy (Neyshabur 2017, Jiang 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gengap.measures.norms.norm import NotFoldableError
from lightning_gengap.measures.sharpness.weight_noise import (
    FLOOR,
    TARGET_DROP,
    Deviation,
    Level,
    absolute,
    drop_under_noise,
    find_level,
    fit_at,
    largest_share,
    magnitude_aware,
)
from lightning_gengap.network.folding import Folded, folded, folded_initial
from lightning_gengap.network.probe import Probe

CONFIDENCE = 0.05


def pac_bayes(probe: Probe) -> dict[str, float]:
    """The largest noise that the accuracy survives, and measures built on it.

    sigma is the standard deviation (not the variance, as in a widely copied code) of Gaussian noise on all parameters
    of the folded network at which the mean accuracy drops by 0.1 +- 0.01, searched in (0, 2]; sigma' the same with
    deviation sqrt(sigma'^2 w_i^2 + e^2), e = 0.001. Draws are the same at every level and every measurement, and the
    search starts from the last value.

    Keys `pac_bayes/sigma` (weight units) and `pac_bayes/magnitude_sigma` (no unit), each with `..._drop`, the drop
    that was reached, and `..._censored`, 1 where the whole range costs less, so that the value is a lower limit. Where
    the drop is within the tolerance: `pac_bayes/flatness` 1 / sigma^2 (row 53), `pac_bayes/magnitude_flatness`
    1 / sigma'^2 (row 61), `pac_bayes/origin` (row 49) and `pac_bayes/initial` (row 48), |r|^2 / (4 sigma^2) +
    log(n / sigma) + 10 with r = w or w - w0 over the K weights without biases; `pac_bayes/magnitude_origin` (row 57)
    and `pac_bayes/magnitude_initial` (row 56), sum_i log((e^2 + (sigma'^2 + 1) |r|^2 / K) / (e^2 + sigma'^2 (w_i -
    w0_i)^2)) / 4 + log(n / sigma') + 10; and, for display only, `pac_bayes/bound` on the test error: 1 - (accuracy
    under noise) + 4 sqrt((KL + log(2n / 0.05)) / n), KL = |w - w0|^2 / (2 sigma^2) over all parameters; vacuous as
    a rule, i.e. above 1. n is the number of training samples; published tables give sqrt(v / n) of the rows.

    sigma' and row 61 are invariant, up to e, to a scaling of the logits, ReLU rescaling and rescaling before batch
    norm; the others only to the last. Absent with one note: all while the accuracy is within the drop of guessing the
    most frequent class, or where a batch norm cannot be folded; what needs it without n or initial weights. Cost: some
    60 forward passes at first (300 at most), 20 from a warm start. References: Jiang et al. 2020 (arXiv 1912.02178),
    Neyshabur et al. 2017 (arXiv 1706.08947).
    """
    try:
        network, initial = probe.cached(folded), probe.cached(folded_initial)
    except NotFoldableError as reason:
        probe.notes.append(f"pac_bayes/* is absent: {reason}")
        return {}
    accuracy = fit_at(probe).accuracy
    if accuracy <= largest_share(probe) + TARGET_DROP:
        probe.notes.append("pac_bayes/* is absent: the accuracy is not a tenth above that of a constant guess yet")
        return {}
    values: dict[str, float] = {}
    for name, noise, flatness in (
        ("sigma", absolute, "flatness"),
        ("magnitude_sigma", magnitude_aware, "magnitude_flatness"),
    ):
        level = tolerated_noise(probe, network, noise, accuracy, f"pac_bayes/{name}")
        values |= {f"pac_bayes/{name}": level.value, f"pac_bayes/{name}_drop": level.drop}
        values[f"pac_bayes/{name}_censored"] = float(level.censored)
        if not level.found:
            probe.notes.append(f"pac_bayes/{flatness} is absent: no noise level in reach costs a drop of 0.1 +- 0.01")
            continue
        values[f"pac_bayes/{flatness}"] = level.value**-2
        if probe.train_samples is not None:
            rows = _rows if name == "sigma" else _magnitude_rows
            values |= rows(probe.train_samples, network, initial, level, accuracy)
    if probe.train_samples is None:
        probe.notes.append(
            "pac_bayes/origin, initial, magnitude_origin, magnitude_initial and bound are absent: the number of "
            "training samples is unknown"
        )
    elif initial is None:
        probe.notes.append(
            "pac_bayes/initial, magnitude_origin, magnitude_initial and bound are absent: the initial weights are "
            "unknown"
        )
    return values


def tolerated_noise(
    probe: Probe, network: Folded, noise: Callable[[float], Deviation], accuracy: float, key: str
) -> Level:
    """The level of `noise` that costs the target drop; starts from the one kept in the probe's memory under `key`."""
    start = probe.memory.get(key)
    level = find_level(
        lambda sigma: drop_under_noise(probe, network, noise(sigma), accuracy), None if start is None else float(start)
    )
    probe.memory[key] = torch.tensor(level.value, dtype=torch.float64)
    return level


def _rows(samples: int, network: Folded, initial: Folded | None, level: Level, accuracy: float) -> dict[str, float]:
    """Rows 49 and 48, and the bound; `level` is sigma."""
    sigma = level.value
    rest = math.log(samples / sigma) + 10
    values = {"pac_bayes/origin": square_distance(network.weights, None) / (4 * sigma**2) + rest}
    if initial is None:
        return values
    values["pac_bayes/initial"] = square_distance(network.weights, initial.state) / (4 * sigma**2) + rest
    divergence = square_distance(network.parameters, initial.state) / (2 * sigma**2)
    slack = 4 * math.sqrt((divergence + math.log(2 * samples / CONFIDENCE)) / samples)
    return values | {"pac_bayes/bound": 1 - (accuracy - level.drop) + slack}


def _magnitude_rows(
    samples: int, network: Folded, initial: Folded | None, level: Level, accuracy: float
) -> dict[str, float]:
    """Rows 57 and 56; `level` is sigma'. The change from the initial weights is in the denominator of both."""
    if initial is None:
        return {}
    moved = [weight.double() - initial.state[name].to(weight).double() for name, weight in network.weights.items()]
    count = sum(change.numel() for change in moved)
    logs = sum(float((FLOOR**2 + level.value**2 * change.square()).log().sum()) for change in moved)
    values = {}
    for name, centre in (("origin", None), ("initial", initial.state)):
        spread = FLOOR**2 + (level.value**2 + 1) * square_distance(network.weights, centre) / count
        row = (count * math.log(spread) - logs) / 4 + math.log(samples / level.value) + 10
        values[f"pac_bayes/magnitude_{name}"] = row
    return values


def square_distance(parameters: dict[str, Tensor], centre: dict[str, Tensor] | None) -> float:
    """Sum of squared differences from `centre`, or from zero, in float64."""
    total = 0.0
    for name, weight in parameters.items():
        moved = weight.double() if centre is None else weight.double() - centre[name].to(weight).double()
        total += float(moved.square().sum())
    return total
