"""PAC-Bayes measures: the noise on the weights that costs a tenth of the accuracy (Neyshabur 2017, Jiang 2020)."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import NEARLY, OPEN, WEIGHTS, YES, Invariances, Key
from lightning_gengap.measures.sharpness.level_search import Level, drop_under_noise, search
from lightning_gengap.measures.sharpness.weight_noise import FLOOR, absolute, fit_at, magnitude_aware
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import UNKNOWN_START, FoldedNetwork, folded, folded_initial
from lightning_gengap.network.probe import Probe

CONFIDENCE = 0.05
UNKNOWN_SAMPLES = "the number of training samples is unknown"
_COARSE = Invariances(OPEN, OPEN, YES)
_RELATIVE = Invariances(NEARLY, NEARLY, YES)

KEYS = {
    "pac_bayes/sigma": Key("weights", 0, 2, "deviation of weight noise that costs 0.1 of the accuracy", WEIGHTS),
    "pac_bayes/sigma_drop": Key("fraction", -1, 1, "accuracy drop reached at that deviation", _COARSE),
    "pac_bayes/magnitude_sigma": Key(
        "none", 0, 2, "relative deviation of weight noise that costs 0.1 of the accuracy", _RELATIVE
    ),
    "pac_bayes/magnitude_sigma_drop": Key(
        "fraction", -1, 1, "accuracy drop reached at that relative deviation", _RELATIVE
    ),
    "pac_bayes/sigma_censored": Key("0 or 1", 0, 1, "1: the deviation is at least that, the range's end", _COARSE),
    "pac_bayes/magnitude_sigma_censored": Key(
        "0 or 1", 0, 1, "1: the relative deviation is at least that, the range's end", _COARSE
    ),
    "pac_bayes/flatness": Key("inverse squared weights", 0, math.inf, "1 / sigma^2", WEIGHTS),
    "pac_bayes/magnitude_flatness": Key("none", 0, math.inf, "1 / sigma'^2", _RELATIVE),
    "pac_bayes/origin": Key("nats", 0, math.inf, "squared weights over 4 sigma^2 + log(n / sigma) + 10", WEIGHTS),
    "pac_bayes/initial": Key(
        "nats", 0, math.inf, "squared distance from start over 4 sigma^2 + log(n / sigma) + 10", WEIGHTS
    ),
    "pac_bayes/magnitude_origin": Key(
        "nats",
        -math.inf,
        math.inf,
        "relative noise against squared weights, summed logs, + log(n / sigma') + 10",
        WEIGHTS,
    ),
    "pac_bayes/magnitude_initial": Key(
        "nats", 0, math.inf, "relative noise against squared distance from start, likewise", WEIGHTS
    ),
    "pac_bayes/bound": Key("fraction", 0, math.inf, "bound on the test error; vacuous above 1", WEIGHTS),
}


def pac_bayes(probe: Probe) -> Values:
    """The largest noise that the accuracy survives, and measures built on it.

    sigma is the standard deviation (not the variance, as in a widely copied code) of Gaussian noise on all parameters
    of the folded network at which the mean accuracy drops by 0.1 +- 0.01. It is searched in (0, 2]. sigma' is the same
    with deviation sqrt(sigma'^2 w_i^2 + e^2), e = 0.001. Draws are the same at every level and every measurement, and
    the search starts from the last value.

    Keys: `pac_bayes/sigma` and `pac_bayes/magnitude_sigma`, each with `..._drop`, the drop
    that was reached, and `..._censored`, 1 where the whole range costs less, so that the value is a lower limit. The
    following exist where the drop is within the tolerance; r is w or w - w0 over the K weights without biases, and n
    the number of training samples.

    - `pac_bayes/flatness`: 1 / sigma^2 (row 53); `pac_bayes/magnitude_flatness`: 1 / sigma'^2 (row 61).
    - `pac_bayes/origin` (row 49) and `pac_bayes/initial` (row 48): |r|^2 / (4 sigma^2) + log(n / sigma) + 10.
    - `pac_bayes/magnitude_origin` (row 57) and `pac_bayes/magnitude_initial` (row 56): sum_i log((e^2 + (sigma'^2 + 1)
      |r|^2 / K) / (e^2 + sigma'^2 (w_i - w0_i)^2)) / 4 + log(n / sigma') + 10.
    - `pac_bayes/bound`, for display only: a bound on the test error, 1 - (accuracy under noise) +
      4 sqrt((KL + log(2n / 0.05)) / n), KL = |w - w0|^2 / (2 sigma^2) over all parameters. It is vacuous as a rule,
      above 1.

    Published tables give sqrt(v / n) of the rows. What needs n or the initial weights is absent without. Cost: some 60
    forward passes at first (300 at most), 20 from a warm start.

    Raises:
        Undefined: the accuracy is within the drop of guessing the most frequent class, or a batch norm cannot be
            folded.

    References: Jiang et al. 2020 (arXiv 1912.02178), Neyshabur et al. 2017 (arXiv 1706.08947).
    """
    network, initial = probe.cached(folded), probe.cached(folded_initial)
    accuracy = fit_at(probe).accuracy
    sigma = search(
        probe, "pac_bayes/sigma", accuracy, lambda at: drop_under_noise(probe, network, absolute(at), accuracy)
    )
    relative = search(
        probe,
        "pac_bayes/magnitude_sigma",
        accuracy,
        lambda at: drop_under_noise(probe, network, magnitude_aware(at), accuracy),
    )
    values: dict[str, Value] = {**sigma.values("pac_bayes/sigma"), **relative.values("pac_bayes/magnitude_sigma")}
    for level, rows in (
        (sigma, _rows(probe.train_samples, network, initial, sigma, accuracy)),
        (relative, _magnitude_rows(probe.train_samples, network, initial, relative)),
    ):
        if not level.found:
            rows = dict.fromkeys(rows, Undefined("no noise level in reach costs a drop of 0.1 +- 0.01"))
        values |= {f"pac_bayes/{row}": value for row, value in rows.items()}
    return values


def _rows(
    samples: int | None, network: FoldedNetwork, initial: FoldedNetwork | None, level: Level, accuracy: float
) -> dict[str, Value]:
    """Rows 53, 49 and 48, and the bound; `level` is sigma."""
    sigma = level.value
    rows: dict[str, Value] = {"flatness": sigma**-2}
    if samples is None:
        return rows | dict.fromkeys(("origin", "initial", "bound"), Undefined(UNKNOWN_SAMPLES))
    rest = math.log(samples / sigma) + 10
    rows["origin"] = square_distance(network.weights, None) / (4 * sigma**2) + rest
    if initial is None:
        return rows | dict.fromkeys(("initial", "bound"), Undefined(UNKNOWN_START))
    rows["initial"] = square_distance(network.weights, initial.state) / (4 * sigma**2) + rest
    divergence = square_distance(network.parameters, initial.state) / (2 * sigma**2)
    slack = 4 * math.sqrt((divergence + math.log(2 * samples / CONFIDENCE)) / samples)
    return rows | {"bound": 1 - (accuracy - level.drop) + slack}


def _magnitude_rows(
    samples: int | None, network: FoldedNetwork, initial: FoldedNetwork | None, level: Level
) -> dict[str, Value]:
    """Rows 61, 57 and 56; `level` is sigma'. The last two both divide by the change from the initial weights."""
    rows: dict[str, Value] = {"magnitude_flatness": level.value**-2}
    if samples is None or initial is None:
        unknown = Undefined(UNKNOWN_SAMPLES if samples is None else UNKNOWN_START)
        return rows | dict.fromkeys(("magnitude_origin", "magnitude_initial"), unknown)
    moved = [_difference(weight, initial.state[name]) for name, weight in network.weights.items()]
    count = sum(change.numel() for change in moved)
    logs = sum(float((FLOOR**2 + level.value**2 * change.square()).log().sum()) for change in moved)
    for name, centre in (("origin", None), ("initial", initial.state)):
        spread = FLOOR**2 + (level.value**2 + 1) * square_distance(network.weights, centre) / count
        row = (count * math.log(spread) - logs) / 4 + math.log(samples / level.value) + 10
        rows[f"magnitude_{name}"] = row
    return rows


def square_distance(parameters: dict[str, Tensor], centre: dict[str, Tensor] | None) -> float:
    """Sum of squared differences from `centre`, or from zero, in float64."""
    total = 0.0
    for name, weight in parameters.items():
        moved = weight.cpu().double() if centre is None else _difference(weight, centre[name])
        total += float(moved.square().sum())
    return total


def _difference(weight: Tensor, other: Tensor) -> Tensor:
    """In float64, on the CPU: not every device has it."""
    return weight.cpu().double() - other.to(weight.dtype).cpu().double()
