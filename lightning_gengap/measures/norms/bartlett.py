"""Output margins over the spectral complexity of the network and the size of its inputs (Bartlett et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT, Key
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.norms.spectral import operator_norm, spectral_norm
from lightning_gengap.measures.values import Histogram, Value, Values
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.layer_graph import Block
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.weight_layers import WeightLayer, weight_operator

QUANTILES = {"q05": (0.05, "5 % quantile"), "q10": (0.1, "10 % quantile"), "median": (0.5, "median")}
_OVER = {"": "spectral complexity", "identity_": "that with shortcuts as identities"}
Term = tuple[float, float]  # of one matrix A: |A|_2, and |A^T - M^T|_{2,1}

KEYS = {
    **{
        f"bartlett/{references}{name}": Key(
            "none", -math.inf, math.inf, f"{words} of the margin over {over}", INVARIANT
        )
        for references, over in _OVER.items()
        for name, (_, words) in QUANTILES.items()
    },
    "bartlett/log_complexity": Key(
        "log", -math.inf, math.inf, "log of spectral complexity times input norm over samples", FUNCTION
    ),
    "bartlett/log_complexity_identity": Key(
        "log", -math.inf, math.inf, "the same, shortcuts being identities in layers and references", FUNCTION
    ),
    "margin/bartlett": Key(
        "none", -math.inf, math.inf, "margins over spectral complexity", INVARIANT, kind="histogram"
    ),
    "margin/bartlett_identity": Key(
        "none", -math.inf, math.inf, "margins over that with shortcuts as identities", INVARIANT, kind="histogram"
    ),
}


def bartlett(probe: Probe) -> Values:
    """Quantiles of the output margin over R |X|_2 / n, for two choices of the matrices that the network is made of.

    R = prod_i |A_i|_2 (sum_i (|A_i^T - M_i^T|_{2,1} / |A_i|_2)^(2/3))^(3/2), for activations of Lipschitz constant one.
    |X|_2 / n = sqrt(mean |x|^2 / n), where n is the full number of training samples: the value does not depend on how
    many of them are monitored. A convolution counts as the operator that it applies at its input size, zero padding
    included, in both norms: |A^T|_{2,1} sums, over all output units, the Euclidean norm of the incoming weights.

    Reference matrices zero: A_i are the folded weights W_i and M_i = 0. For residual networks R is then a number over
    the layers, not a bound. Keys: `bartlett/<q05|q10|median>`, quantiles of the normalized margin (tiny: take their
    logs where they are positive); `bartlett/log_complexity`, the log of R |X|_2 / n.

    Reference matrices identity: shortcuts are part of the A_i, and M_i is the identities among them. Around the layers
    W_1 ... W_k the first A is [I; W_1], the last [I, W_k], and those between are diag(I, W_i). Around one layer A is
    I + W. A projection W_0 takes the place of the first I, and is no reference. So R is that of the theorem for
    residual networks too; without shortcuts it is the first. Keys: `bartlett/identity_<q05|q10|median>` and
    `bartlett/log_complexity_identity`. The histograms are `margin/bartlett` and `margin/bartlett_identity`.

    Rescaling around a ReLU leaves a quantile as it is only where no shortcut leads around the layers.

    Cost: a few forwards of one example, and three of eight; the forward of `fit` is shared. Reference: Bartlett et al.
    2017 (arXiv 1706.08498).

    Raises:
        Undefined: a layer cannot be folded or is called twice, or n is unknown. What takes identities as references is
            absent where tensors meet in other ways than such shortcuts: concatenation, gates, shortcuts around an
            activation.
    """
    inputs = probe.inputs
    if inputs is None or probe.train_samples is None:
        raise Undefined("it needs float inputs of one shape, and the number of training samples")
    layers, blocks = probe.cached(checked).layers, probe.cached(checked).blocks
    terms = {name: _term(layer, probe) for name, layer in layers.items()}
    size = _log_size(inputs, probe.train_samples)
    gaps = logit_gap(probe.cached(clean_logits), probe.targets)
    values = _normalized(gaps, _log_complexity(terms.values()) + size)
    if isinstance(blocks, Undefined):
        names = ("bartlett/identity_*", "bartlett/log_complexity_identity", "margin/bartlett_identity")
        return values | dict.fromkeys(names, blocks)
    inside = {name for block in blocks for name in (*block.branch, block.projection)}
    with_shortcuts = [term for name, term in terms.items() if name not in inside]
    for block in blocks:
        with_shortcuts += block_terms(block, layers, terms, probe)
    values |= _normalized(gaps, _log_complexity(with_shortcuts) + size, "_identity")
    if not blocks:
        values["margin/bartlett_identity"] = Undefined("without shortcuts it is margin/bartlett")
    return values


def _normalized(gaps: Tensor, log_complexity: float, references: str = "") -> dict[str, Value]:
    """The gaps over exp(log_complexity) in all forms, under the keys of these references."""
    prefix = f"{references.removeprefix('_')}_" if references else ""
    inverse = float(torch.tensor(-log_complexity, dtype=torch.float64).exp())  # infinite ones are dropped with the keys
    return {
        f"margin/bartlett{references}": Histogram((gaps * inverse).cpu()),
        **{f"bartlett/{prefix}{name}": float(gaps.quantile(at)) * inverse for name, (at, _) in QUANTILES.items()},
        f"bartlett/log_complexity{references}": log_complexity,
    }


def _term(layer: WeightLayer, probe: Probe) -> Term:
    """The norms of a layer's own matrix."""
    if layer.calls > 1:
        raise Undefined(f"the layer {layer.name!r} is called more than once")
    spectral = spectral_norm(layer, probe).value
    if not (math.isfinite(spectral) and spectral > 0):
        raise Undefined("a weight layer is zero or not finite")
    return spectral, incoming_norms(layer)


def _log_size(inputs: Sequence[Tensor], train_samples: int) -> float:
    """The log of |X|_2 / n."""
    norms = torch.cat([torch.linalg.vector_norm(part.reshape(len(part), -1), dim=1) for part in inputs])
    square = float(norms.cpu().double().square().mean())
    if square <= 0:
        raise Undefined("all inputs are zero")
    return 0.5 * math.log(square / train_samples)


def _log_complexity(terms: Collection[Term]) -> float:
    """The log of R."""
    ratios = math.fsum((groups / spectral) ** (2 / 3) for spectral, groups in terms)
    return math.fsum(math.log(spectral) for spectral, _ in terms) + 1.5 * math.log(ratios)


def block_terms(block: Block, layers: Mapping[str, WeightLayer], terms: Mapping[str, Term], probe: Probe) -> list[Term]:
    """The norms of the matrices of a block: its layers with the shortcut beside them."""
    first = layers[block.branch[0]]
    own = first.operator()
    spectral, groups = terms[first.name]
    if len(block.branch) == 1:
        return [(operator_norm(lambda x: x + own(x), first, probe).value, groups)]
    spectral = math.hypot(1, spectral)
    if block.projection is not None:
        other = layers[block.projection].operator()
        groups += terms[block.projection][1]
        spectral = operator_norm(lambda x: torch.cat([own(x).flatten(), other(x).flatten()]), first, probe).value
    *between, last = (terms[name] for name in block.branch[1:])
    return [
        (spectral, groups),
        *((max(1.0, spectral), groups) for spectral, groups in between),
        (math.hypot(1, last[0]), last[1]),
    ]


def incoming_norms(layer: WeightLayer) -> float:
    """|A^T|_{2,1} of the map that the layer applies: the norms of its output units' weights, summed.

    Squared weights applied to ones give every output unit's sum of squares, zero padding included.
    """
    with torch.no_grad():
        squares = weight_operator(layer.module, layer.weight.square())(layer.weight.new_ones(1, *layer.input_shape))
    return float(squares.cpu().double().sqrt().sum())
