"""The path norm: the sum over all paths from inputs to logits of the product of squared weights (Neyshabur 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.measures.folding import fold, folded_weights_of
from lightning_gengap.measures.margin import logit_gap, margin_signature
from lightning_gengap.measures.norm import NotFoldableError
from lightning_gengap.probe import Probe
from lightning_gengap.trace import clean_name

MARGIN_QUANTILE = 0.1
TOLERANCE = 1e-9


def path_norm(probe: Probe) -> dict[str, float]:
    """The l2 path norm, alone and over the margin.

    Keys `path_norm/log`: log of the summed logits of the network with every folded parameter squared, biases
    included, for an input of ones; `path_norm/log_over_margin`: that minus 2 log of the 10 % quantile of the output
    margin, absent where the quantile is not positive. Averaging and shortcuts enter unsquared, as published. Unit:
    log of squared weights, unbounded. Invariant to ReLU rescaling and, folded, to rescaling before batch norm; over
    the margin also to a scaling of the last layer. Absent, with one note, where the network of squares is not
    additive on positive inputs, so that it does not sum over paths: max pooling, attention, layer norm, smooth
    activations. Cost: one forward of one batch, in float64. Reference: rows 43 and 44 of Jiang et al. 2020
    (arXiv 1912.02178); Neyshabur et al. 2015 (arXiv 1503.00036).
    """
    try:
        value = log_path_norm(probe)
    except NotFoldableError as reason:
        probe.notes.append(f"path_norm/* is absent: {reason}")
        return {}
    values = {"path_norm/log": value}
    margin = logit_gap(probe.once(margin_signature).logits, probe.targets).quantile(MARGIN_QUANTILE)
    if margin > 0:
        values["path_norm/log_over_margin"] = value - 2 * math.log(margin)
    else:
        probe.notes.append("path_norm/log_over_margin is absent: the 10 % quantile of the margin is not positive")
    return values


def log_path_norm(probe: Probe) -> float:
    """Log of the sum over paths of squared weights, through batch norms folded.

    Raises:
        NotFoldableError: it is not defined for this network; the message says why.
    """
    inputs = probe.batches[0].inputs
    if inputs is None:
        raise NotFoldableError("the inputs are not floats")
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    for name in folded_weights_of(probe.model, probe.layout.ran):  # refuses layers that are not linear
        if modules[name]._parameters.get("weight") is None:
            raise NotFoldableError(f"the weight of {name!r} is computed from other parameters")
    network = fold(probe.model, probe.layout.ran)
    precise = torch.float32 if inputs.device.type == "mps" else torch.float64
    state = {name: value.to(precise) if value.is_floating_point() else value for name, value in network.state.items()}
    parameters = dict(probe.model.named_parameters())
    state |= {name: state[name].square() for name in parameters}
    generator = torch.Generator().manual_seed(probe.seed)
    shape = inputs.shape[1:]
    first, second = torch.rand(2, *shape, generator=generator).to(inputs.device, precise)
    ones, zeros = torch.ones_like(first), torch.zeros_like(first)
    sums = _summed_logits(probe, state, torch.stack([ones, zeros, first, second, first + second]))
    total, at_zero, at_first, at_second, at_both = sums.double().tolist()
    if not math.isfinite(total) or total <= 0:
        raise NotFoldableError("the sum over paths is zero or not finite")
    if not abs(at_both - at_first - at_second + at_zero) <= TOLERANCE * abs(at_both):
        raise NotFoldableError("the network of squared weights is not additive: max pooling, softmax, tanh or similar")
    return math.log(total)


def _summed_logits(probe: Probe, state: dict[str, Tensor], points: Tensor) -> Tensor:
    """The logits at each point, summed; every call has the size of the first batch, whatever else that holds."""
    batch = probe.batches[0]
    size, sums = len(batch.targets), []
    with torch.no_grad():
        for part in points.split(size):
            padded = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])
            sums.append(probe.logits_on(batch.with_inputs(padded), size, state)[: len(part)].sum(dim=1))
    return torch.cat(sums)
