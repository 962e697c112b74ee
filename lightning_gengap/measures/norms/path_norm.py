"""Path norms: the sum over all paths from inputs to logits of the product of powers of weights (Neyshabur 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.measures.norms.layer_norms import log_margin
from lightning_gengap.network.folding import Folded, fold
from lightning_gengap.network.folding_check import verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError

POWERS = {"log": 2.0, "log_1": 1.0, "log_1.5": 1.5}
TOLERANCE = 1e-9


def path_norm(probe: Probe) -> dict[str, float]:
    """The path norms for powers 1, 1.5 and 2 of the weights, alone and over the margin.

    The sum over paths is that of the logits of the network with every folded parameter w, biases included, replaced
    by |w|^p, for an input of ones. Averaging and shortcuts enter as they are, as published.

    Keys `path_norm/log`: log of the sum for p = 2; `path_norm/log_over_margin`: that minus 2 log of the 10 % quantile
    of the output margin, absent where the quantile is not positive. `path_norm/log_<p>`, p in 1, 1.5: the log of the
    l_p path norm, log of the sum over p; `path_norm/log_<p>_over_margin`: that minus the log of the quantile. (The l_2
    path norm's are half of the first two.) Unit: log of weights, squared for the first two; unbounded. Invariant to
    ReLU rescaling and, folded, to rescaling before batch norm; over the margin also to a scaling of the last layer.
    Absent, with one note, where the network of powers is not additive on positive inputs, so that it does not sum over
    paths: max pooling, attention, layer norm, smooth activations. Cost: three forwards of one batch, in float64.
    Reference: rows 43 and 44 of Jiang et al. 2020 (arXiv 1912.02178); Neyshabur et al. 2015 (arXiv 1503.00036) and
    2017 (arXiv 1706.08947).
    """
    sums: dict[str, float] = {}
    refusals: dict[str, list[str]] = {}
    for name, power in POWERS.items():
        try:
            sums[name] = log_path_norm(probe, power)
        except NotFoldableError as refusal:
            refusals.setdefault(str(refusal), []).append(f"path_norm/{name}")
    for reason, names in refusals.items():
        absent = "path_norm/* is" if len(names) == len(POWERS) else f"{', '.join(names)} and over_margin are"
        probe.notes.append(f"{absent} absent: {reason}")
    if not sums:
        return {}
    margin = log_margin(probe)
    if margin is None:
        probe.notes.append("path_norm/*_over_margin is absent: the 10 % quantile of the margin is not positive")
    values: dict[str, float] = {}
    for name, total in sums.items():
        root = 1.0 if name == "log" else POWERS[name]
        values[f"path_norm/{name}"] = total / root
        if margin is not None:
            values[f"path_norm/{name}_over_margin"] = total / root - POWERS[name] / root * margin
    return values


def log_path_norm(probe: Probe, power: float = 2.0) -> float:
    """Log of the sum over paths of weights to the `power`, through batch norms folded.

    Raises:
        NotFoldableError: it is not defined for this network; the message says why.
    """
    inputs = probe.batches[0].inputs
    if inputs is None:
        raise NotFoldableError("the inputs are not floats")
    network = probe.cached(foldable)
    precise = torch.float32 if inputs.device.type == "mps" else torch.float64
    state = {name: value.to(precise) if value.is_floating_point() else value for name, value in network.state.items()}
    parameters = [name for name, value in probe.model.named_parameters() if value.is_floating_point()]
    state |= {name: state[name].abs().pow(power) for name in parameters}
    generator = torch.Generator().manual_seed(probe.seed)
    shape = inputs.shape[1:]
    first, second = torch.rand(2, *shape, generator=generator).to(inputs.device, precise)
    ones, zeros = torch.ones_like(first), torch.zeros_like(first)
    points = torch.stack([ones, zeros, first, second, first + second, ones - first])
    total, at_zero, at_first, at_second, at_both, at_rest = _summed_logits(probe, state, points).double().tolist()
    if not math.isfinite(total) or total <= 0:
        raise NotFoldableError("the sum over paths is zero or not finite")
    apart = abs(at_both - at_first - at_second + at_zero), abs(total - at_first - at_rest + at_zero)
    if not max(apart) <= TOLERANCE * max(abs(at_both), abs(total)):
        raise NotFoldableError(
            "the network of powers of weights is not additive: max pooling, softmax, tanh or similar"
        )
    return math.log(total)


def foldable(probe: Probe) -> Folded:
    """The network folded, every layer linear with weights of its own; take it through `probe.cached`.

    Raises:
        NotFoldableError: a layer is not linear, or its weights are computed; the message says which.
    """
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    for name in verified_weights(probe):  # refuses layers that are not linear
        if modules[name]._parameters.get("weight") is None:
            raise NotFoldableError(f"the weight of {name!r} is computed from other parameters")
    return fold(probe.model, probe.layout.ran)


def _summed_logits(probe: Probe, state: dict[str, Tensor], points: Tensor) -> Tensor:
    """The logits at each point, summed; every call has the size of the first batch, whatever else that holds."""
    batch = probe.batches[0]
    size, sums = len(batch.targets), []
    with torch.no_grad():
        for part in points.split(size):
            padded = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])
            sums.append(probe.logits_on(batch.with_inputs(padded), size, state)[: len(part)].sum(dim=1))
    return torch.cat(sums)
