"""Output margins over the spectral complexity of the network and the size of its inputs (Bartlett et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.margin import logit_gap, margin_signature
from lightning_gengap.measures.norms.norm import operator_norm, spectral_norm
from lightning_gengap.measures.values import Histogram, Value, Values
from lightning_gengap.network.folding_check import verified, verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.shortcuts import Block
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError, weight_operator

LEVELS = {"q05": 0.05, "q10": 0.1, "median": 0.5}
Term = tuple[float, float]  # of one matrix A: |A|_2, and |A^T - M^T|_{2,1}


def bartlett(probe: Probe) -> Values:
    """Quantiles of the output margin over R |X|_2 / n, for two choices of the matrices that the network is made of.

    R = prod_i |A_i|_2 (sum_i (|A_i^T - M_i^T|_{2,1} / |A_i|_2)^(2/3))^(3/2), activations of Lipschitz constant one, and
    |X|_2 / n = sqrt(mean |x|^2 / n), n the full number of training samples, so that the value does not depend on how
    many are monitored. Convolutions count as the operators they apply at their input size, zero padding included, in
    both norms: |A^T|_{2,1} sums, over all output units, the Euclidean norm of the incoming weights.

    Reference matrices zero: A_i are the folded weights W_i and M_i = 0. For residual networks R is then a number over
    the layers, not a bound. Keys `bartlett/<q05|q10|median>`, quantiles of the normalized margin, signed, no unit, tiny
    numbers: for their logs where positive; `bartlett/log_complexity`, log of R |X|_2 / n, unbounded.

    Reference matrices identity: shortcuts are part of the A_i, and M_i is the identities among them. Around the layers
    W_1 ... W_k the first A is [I; W_1], the last [I, W_k], those between are diag(I, W_i); around one layer A is I + W;
    a projection W_0 takes the place of the first I, and is no reference. So R is that of the theorem for residual
    networks too; without shortcuts it is the first. Keys `bartlett/identity_<q05|q10|median>` and
    `bartlett/log_complexity_identity`.

    All quantiles are invariant, folded, to rescaling before batch norm; to a scaling of the last layer (bias included);
    and, where no shortcut leads around the layers, to ReLU rescaling. Absent, with one note, where a layer cannot be
    folded or is called twice, or n is unknown; the second, where tensors meet in other ways than such shortcuts
    (concatenation, gates, shortcuts around an activation). Cost: a few forwards of one example, and three of eight; the
    margins' forward is shared. Reference: Bartlett et al. 2017 (arXiv 1706.08498).
    """
    scales = probe.cached(log_complexities)
    gaps = logit_gap(probe.cached(margin_signature).logits, probe.targets) if scales else torch.empty(0)
    values: dict[str, Value] = {}
    if scales:
        values["margin/bartlett"] = Histogram((gaps * _inverse(scales[""])).cpu())
    if "identity_" in scales and probe.cached(verified).shortcuts.blocks:
        values["margin/bartlett_identity"] = Histogram((gaps * _inverse(scales["identity_"])).cpu())
    for prefix, scale in scales.items():
        quantiles = {name: float(gaps.quantile(level)) * _inverse(scale) for name, level in LEVELS.items()}
        values |= {f"bartlett/{prefix}{name}": value for name, value in quantiles.items()}
        values[f"bartlett/log_complexity{'_identity' if prefix else ''}"] = scale
    return values


def log_complexities(probe: Probe) -> dict[str, float]:
    """Log of R |X|_2 / n by the prefix of the quantiles' keys, notes where absent; take it through `probe.cached`."""
    try:
        layers, size = _layers(probe), _log_size(probe)
        total = _log_complexity([layer.term for layer in layers.values()]) + size
    except NotFoldableError as reason:
        probe.notes.append(f"bartlett/* is absent: {reason}")
        return {}
    shortcuts = probe.cached(verified).shortcuts
    if shortcuts.refusal is not None:
        probe.notes.append(f"bartlett/identity_* and log_complexity_identity are absent: {shortcuts.refusal}")
        return {"": total}
    inside = {name for block in shortcuts.blocks for name in (*block.branch, block.projection)}
    terms = [layer.term for name, layer in layers.items() if name not in inside]
    for block in shortcuts.blocks:
        terms += block_terms(block, layers, probe)
    return {"": total, "identity_": _log_complexity(terms) + size}


def _inverse(log: float) -> float:
    """exp(-log), infinite where that is too large: such values are dropped."""
    return float(torch.tensor(-log, dtype=torch.float64).exp())


@dataclass(frozen=True)
class _Layer:
    """A layer, its folded weight, its input's shape, and its own two norms."""

    module: nn.Module
    weight: Tensor
    shape: tuple[int, ...]
    term: Term


def _layers(probe: Probe) -> dict[str, _Layer]:
    if probe.inputs is None or probe.train_samples is None:
        raise NotFoldableError("it needs float inputs of one shape, and the number of training samples")
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    met = {each.module: each for each in probe.layout.ran}
    layers = {}
    for name, weight in verified_weights(probe).items():
        if met[name].calls > 1:
            raise NotFoldableError(f"the layer {name!r} is called more than once")
        shape = met[name].input_shape
        spectral = spectral_norm(modules[name], weight, shape, f"norm/{name}", probe)[0]
        if not (math.isfinite(spectral) and spectral > 0):
            raise NotFoldableError("a weight layer is zero or not finite")
        groups = incoming_norms(modules[name], weight, shape)
        layers[name] = _Layer(modules[name], weight, shape, (spectral, groups))
    return layers


def _log_size(probe: Probe) -> float:
    assert probe.inputs is not None  # else `_layers` had refused
    assert probe.train_samples is not None
    square = float(torch.linalg.vector_norm(probe.inputs.flatten(1), dim=1).cpu().double().square().mean())
    if square <= 0:
        raise NotFoldableError("all inputs are zero")
    return 0.5 * math.log(square / probe.train_samples)


def _log_complexity(terms: Iterable[Term]) -> float:
    terms = list(terms)
    ratios = math.fsum((groups / spectral) ** (2 / 3) for spectral, groups in terms)
    return math.fsum(math.log(spectral) for spectral, _ in terms) + 1.5 * math.log(ratios)


def block_terms(block: Block, layers: dict[str, _Layer], probe: Probe) -> list[Term]:
    """The norms of the matrices of a block: its layers with the shortcut beside them."""
    first = layers[block.branch[0]]
    own = weight_operator(first.module, first.weight)
    if len(block.branch) == 1:
        key = f"bartlett/{block.branch[0]}"
        return [(operator_norm(lambda x: x + own(x), first.weight, first.shape, key, probe)[0], first.term[1])]
    spectral, groups = math.hypot(1, first.term[0]), first.term[1]
    if block.projection is not None:
        beside = layers[block.projection]
        other = weight_operator(beside.module, beside.weight)
        groups += beside.term[1]
        spectral, _ = operator_norm(
            lambda x: torch.cat([own(x).flatten(), other(x).flatten()]),
            first.weight, first.shape, f"bartlett/{block.branch[0]}", probe,
        )  # fmt: skip
    *between, last = (layers[name].term for name in block.branch[1:])
    return [
        (spectral, groups),
        *((max(1.0, spectral), groups) for spectral, groups in between),
        (math.hypot(1, last[0]), last[1]),
    ]


def incoming_norms(module: nn.Module, weight: Tensor, input_shape: tuple[int, ...]) -> float:
    """|A^T|_{2,1} of the map that the layer applies with `weight`: the norms of its output units' weights, summed.

    Squared weights applied to ones give every output unit's sum of squares, zero padding included.
    """
    with torch.no_grad():
        squares = weight_operator(module, weight.square())(weight.new_ones(1, *input_shape))
    return float(squares.double().sqrt().sum())
