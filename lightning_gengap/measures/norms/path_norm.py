"""Path norms: the sum over all paths from inputs to logits of the product of powers of weights (Neyshabur 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.derivatives.per_sample import precise
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT
from lightning_gengap.measures.norms.layer_norms import log_key, log_margin
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import FoldedNetwork, fold
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.probe import Probe

POWERS = {"log": 2.0, "log_1": 1.0, "log_1.5": 1.5}
ROOTS = {"log": 1.0, "log_1": 1.0, "log_1.5": 1.5}  # `log` is of the squared norm, as published
TOLERANCE = 1e-9
_QUANTILE = "the log of the margin's 10 % quantile"
KEYS = {
    "path_norm/log": log_key("log of the sum over paths of squared weights", FUNCTION),
    "path_norm/log_over_margin": log_key(f"that minus twice {_QUANTILE}", INVARIANT),
    "path_norm/log_1": log_key("log of the l1 path norm", FUNCTION),
    "path_norm/log_1_over_margin": log_key(f"log of the l1 path norm minus {_QUANTILE}", INVARIANT),
    "path_norm/log_1.5": log_key("log of the l1.5 path norm", FUNCTION),
    "path_norm/log_1.5_over_margin": log_key(f"log of the l1.5 path norm minus {_QUANTILE}", INVARIANT),
}


def path_norm(probe: Probe) -> Values:
    """The path norms for powers 1, 1.5 and 2 of the weights, alone and over the margin.

    The sum over paths is that of the logits of the network with every folded parameter w, biases included, replaced
    by |w|^p, for an input of ones. Averaging and shortcuts enter as they are, as published.

    Keys: `path_norm/log` is the log of the sum for p = 2, and `path_norm/log_over_margin` that minus 2 log of the 10 %
    quantile of the output margin. `path_norm/log_<p>`, p in 1, 1.5, is the log of the l_p path norm, log of the sum
    over p; `path_norm/log_<p>_over_margin` is that minus the log of the quantile. (The l_2 path norm's are half of the
    first two.)

    What is over the margin is absent where the quantile is not positive. A power is absent where the network of powers
    is not additive on positive inputs, so that it does not sum over paths: with max pooling, attention, layer norm,
    smooth activations. Cost: three forwards of one batch, in float64.

    Raises:
        Undefined: a layer cannot be folded, its weights are computed, the inputs are not floats, the device has no
            float64, or memory does not suffice.

    Reference: rows 43 and 44 of Jiang et al. 2020 (arXiv 1912.02178); Neyshabur et al. 2015 (arXiv 1503.00036) and
    2017 (arXiv 1706.08947).
    """
    if probe.no_inputs is not None:
        raise Undefined(probe.no_inputs)
    totals: dict[str, float] = {}
    refusals: dict[str, Undefined] = {}
    for name, power in POWERS.items():
        try:
            totals[name] = log_path_norm(probe, power)
        except Undefined as undefined:
            refusals[name] = undefined
    if not totals:
        raise refusals["log"]
    values: dict[str, Value] = {}
    for name, refusal in refusals.items():
        values |= {f"path_norm/{name}": refusal, f"path_norm/{name}_over_margin": refusal}
    margin = log_margin(probe)
    if isinstance(margin, Undefined):
        values["path_norm/*_over_margin*"] = margin
    for name, total in totals.items():
        values[f"path_norm/{name}"] = total / ROOTS[name]
        if not isinstance(margin, Undefined):
            values[f"path_norm/{name}_over_margin"] = (total - POWERS[name] * margin) / ROOTS[name]
    return values


def log_path_norm(probe: Probe, power: float) -> float:
    """Log of the sum over paths of weights to the `power`; undefined where the network of powers has no such sum."""
    inputs = probe.batches[0].inputs
    assert inputs is not None
    network = probe.cached(linear_network)
    if precise(inputs.device) != torch.float64:
        raise Undefined("the device has no float64; in float32, sums over paths cannot be told from others")
    numbers = sum(value.numel() for value in network.state.values())
    if inputs.device.type == "cpu":
        require_room(3 * 8 * numbers, "all weights in double precision", FREE)
    state = {name: value.double() if value.is_floating_point() else value for name, value in network.state.items()}
    parameters = [name for name, value in probe.model.named_parameters() if value.is_floating_point()]
    state |= {name: state[name].abs().pow(power) for name in parameters}
    generator = torch.Generator().manual_seed(probe.seed)
    first, second = torch.rand(2, *inputs.shape[1:], generator=generator).to(inputs.device).double()
    ones, zeros = torch.ones_like(first), torch.zeros_like(first)
    points = torch.stack([ones, zeros, first, second, first + second, ones - first])
    total, at_zero, at_first, at_second, at_both, at_rest = _summed_logits(probe, state, points).cpu().double().tolist()
    if not math.isfinite(total) or total <= 0:
        raise Undefined("the sum over paths is zero or not finite")
    apart = abs(at_both - at_first - at_second + at_zero), abs(total - at_first - at_rest + at_zero)
    if not max(apart) <= TOLERANCE * max(abs(at_both), abs(total)):
        raise Undefined("the network of powers of weights is not additive: max pooling, softmax, tanh or similar")
    return math.log(total)


def linear_network(probe: Probe) -> FoldedNetwork:
    """The network folded, every layer linear with weights of its own; take it through `probe.cached`."""
    for name, layer in probe.cached(checked).layers.items():
        if layer.module._parameters.get("weight") is None:
            raise Undefined(f"the weight of {name!r} is computed from other parameters")
    return fold(probe)


def _summed_logits(probe: Probe, state: dict[str, Tensor], points: Tensor) -> Tensor:
    """The logits at each point, summed; every call has the size of the first batch, whatever else that holds."""
    batch = probe.batches[0]
    size, sums = len(batch.targets), []
    with torch.no_grad():
        for part in points.split(size):
            padded = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])
            sums.append(probe.logits_on(batch.with_inputs(padded), size, state)[: len(part)].sum(dim=1))
    return torch.cat(sums)
