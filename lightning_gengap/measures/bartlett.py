"""Output margins over the spectral complexity of the network and the size of its inputs (Bartlett et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gengap.measures.folding import folded_weights_of
from lightning_gengap.measures.margin import logit_gap, margin_signature
from lightning_gengap.measures.norm import NotFoldableError, convolution_operator, spectral_norm
from lightning_gengap.probe import Probe
from lightning_gengap.trace import clean_name

LEVELS = {"q05": 0.05, "q10": 0.1, "median": 0.5}


def bartlett(probe: Probe) -> dict[str, float]:
    """Quantiles of the output margin over R |X|_2 / n.

    With folded weights A_i, R = prod_i |A_i|_2 (sum_i (|A_i^T|_{2,1} / |A_i|_2)^(2/3))^(3/2), reference matrices
    zero, activations of Lipschitz constant one, and |X|_2 / n = sqrt(mean |x|^2 / n), n the full number of training
    samples, so that the value does not depend on how many are monitored. Convolutions count as the operators they
    apply at their input size, zero padding included, in both norms: |A^T|_{2,1} sums, over all output units, the
    Euclidean norm of the incoming weights.

    Keys `bartlett/<q05|q10|median>`, quantiles of the normalized margin, signed, no unit, tiny numbers: for their logs
    where positive; `bartlett/log_complexity`, log of R |X|_2 / n, unbounded. The quantiles are invariant to a scaling
    of the last layer (bias included), to ReLU rescaling and, folded, to rescaling before batch norm; for residual
    networks R is a number over the layers, not a bound. Absent, with one note, where a layer cannot be folded or n is
    unknown. Cost: a few forwards of one example; the margins' forward is shared. Reference: Bartlett et al. 2017
    (arXiv 1706.08498).
    """
    try:
        scale = log_complexity(probe)
    except NotFoldableError as reason:
        probe.notes.append(f"bartlett/* is absent: {reason}")
        return {}
    gaps = logit_gap(probe.once(margin_signature).logits, probe.targets)
    quantiles = {f"bartlett/{name}": float(gaps.quantile(level)) * math.exp(-scale) for name, level in LEVELS.items()}
    return quantiles | {"bartlett/log_complexity": scale}


def log_complexity(probe: Probe) -> float:
    """Log of R |X|_2 / n.

    Raises:
        NotFoldableError: it is not defined for this network or these data; the message says why.
    """
    if probe.inputs is None or probe.train_samples is None:
        raise NotFoldableError("it needs float inputs of one shape, and the number of training samples")
    weights = folded_weights_of(probe.model, probe.layout.ran)
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    shapes = {met.module: met.input_shape for met in probe.layout.ran}
    total, ratios = 0.0, 0.0
    for name, weight in weights.items():
        spectral = spectral_norm(modules[name], weight, shapes[name], f"norm/{name}", probe)[0]
        groups = incoming_norms(modules[name], weight, shapes[name])
        if not (math.isfinite(spectral) and spectral > 0):
            raise NotFoldableError("a weight layer is zero or not finite")
        total += math.log(spectral)
        ratios += (groups / spectral) ** (2 / 3)
    square = float(torch.linalg.vector_norm(probe.inputs.flatten(1), dim=1).cpu().double().square().mean())
    if square <= 0:
        raise NotFoldableError("all inputs are zero")
    return total + 1.5 * math.log(ratios) + 0.5 * math.log(square / probe.train_samples)


def incoming_norms(module: nn.Module, weight: Tensor, input_shape: tuple[int, ...]) -> float:
    """|A^T|_{2,1} of the map that the layer applies with `weight`: the norms of its output units' weights, summed.

    Squared weights applied to ones give every output unit's sum of squares, zero padding included.
    """
    ones = weight.new_ones(1, *input_shape)
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            squares = nn.functional.linear(ones, weight.square())
        else:
            squares = convolution_operator(module, weight.square())(ones)
    return float(squares.double().sqrt().sum())
