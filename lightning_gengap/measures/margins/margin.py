"""Normalized margin distributions at the input and three hidden layers (Jiang et al. 2019), and output margins."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_gengap.derivatives.weights import require_room_for_graph
from lightning_gengap.errors import Undefined, one_line, out_of_memory
from lightning_gengap.measures.activations import DIFFERING
from lightning_gengap.measures.key import FUNCTION, INVARIANT, NO, OPEN, YES, Invariances, Key
from lightning_gengap.measures.margins.layer_margins import LayerMargins
from lightning_gengap.measures.margins.margin_metrics import (
    FEWEST_CORRECT,
    STATISTICS,
    NormalizedMargin,
    OutputMargin,
    logit_gap,
)
from lightning_gengap.measures.values import Histogram, Value, Values
from lightning_gengap.network.layers import LAYERS
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.network.rows import Rows

QUANTILES = {"q05": "5 % quantile", "q10": "10 % quantile", "median": "median", "mean": "mean"}


def _keys_of(layer: str) -> dict[str, Key]:
    of = f"of the normalized margin at {layer}, correctly classified samples"
    return {
        **{
            f"margin/{layer}/{name}": Key("none", 0, math.inf, f"{words} {of}", INVARIANT)
            for name, words in STATISTICS.items()
        },
        f"margin/{layer}/total_variation": Key(
            "activation",
            0,
            math.inf,
            f"total variation of the activations at {layer}",
            INVARIANT if layer == "input" else Invariances(YES, NO, OPEN),
        ),
        f"margin/{layer}": Key(
            "none", -math.inf, math.inf, f"signed normalized margins at {layer}", INVARIANT, kind="histogram"
        ),
    }


KEYS = {
    **{key: declared for layer in LAYERS for key, declared in _keys_of(layer).items()},
    **{
        f"margin/output/{name}": Key("logits", -math.inf, math.inf, f"{words} of the output margin", FUNCTION)
        for name, words in QUANTILES.items()
    },
    "margin/correct_fraction": Key("fraction", 0, 1, "share of the probe with a positive margin", INVARIANT),
}


@dataclass(frozen=True)
class Signature:
    """The margins of every layer that has some, all logits, and why the other layers have none. All on the CPU."""

    layers: dict[str, NormalizedMargin]
    logits: Tensor  # shape (examples, classes), float64
    absent: dict[str, str]


def margin(probe: Probe) -> Values:
    """The normalized margin signature and the output margins.

    Keys `margin/<layer>/<statistic>`, `margin/<layer>/total_variation`, `margin/output/<quantile>` and
    `margin/correct_fraction`; the histogram of a layer is `margin/<layer>`. The layers are `input`, `h1`, `h2` and
    `h3`. A layer is absent where the network has none, no gradient reaches it, or its activations differ in shape
    between batches; its statistics are absent with fewer than ten correctly classified samples.

    Cost: two forward passes' worth of arithmetic for all layers: one forward and one backward through the activations
    only. References: Jiang et al. 2019 (arXiv 1810.00113), Bartlett et al. 2017 (arXiv 1706.08498).
    """
    signature = probe.cached(margin_signature)
    values: dict[str, Value] = {}
    for layer, metric in signature.layers.items():
        found = metric.compute()
        values |= {f"margin/{layer}/{name}": float(value) for name, value in found.items()}
        values[f"margin/{layer}"] = Histogram(metric.margins())
        if not STATISTICS.keys() <= found.keys():
            values[f"margin/{layer}/*"] = Undefined(_why_no_statistics(signature, probe))
    values |= {f"margin/{layer}*": Undefined(reason) for layer, reason in signature.absent.items()}
    output = OutputMargin(sync_on_compute=False)
    output.update(signature.logits, probe.targets)
    values |= {f"margin/output/{name}": float(value) for name, value in output.compute().items()}
    correct = (logit_gap(signature.logits, probe.targets) > 0).double().mean()
    return values | {"margin/correct_fraction": float(correct)}


def margin_signature(probe: Probe) -> Signature:
    """Margins at every layer of the probe: one forward and one activation-only backward for all together.

    The runner-up is the largest other logit; the derivative takes its choice as fixed. Examples do not interact in eval
    mode, so the gradient of the summed gaps holds every example's own. Where they
    do, it holds the influence on the others too: the margins are those of whole chunks.
    """
    return _signature(probe) if probe.ranks is None else _shared_signature(probe, probe.ranks)


def _shared_signature(probe: Probe, ranks: Ranks) -> Signature:
    """The signature of all samples, of which each rank computes that of its chunks."""
    first, count = probe.batches[:1], len(probe.batches)
    own = tuple(probe.batches[place] for place in ranks.places(count))
    part = _signature(replace(probe, batches=own or first, ranks=None))
    if own and ranks.is_short(count):
        _signature(replace(probe, batches=first, ranks=None))  # as many forwards as on any other rank
    for name in _differing(part, ranks):
        part.layers.pop(name, None)
        part.absent[name] = DIFFERING
    for layer in part.layers.values():
        _take_over_all(layer, ranks, has_any=bool(own))
    logits = ranks.in_order(probe.sizes, part.logits if own else part.logits[:0])
    return Signature(part.layers, logits, part.absent)


def _differing(part: Signature, ranks: Ranks) -> list[str]:
    """The layers whose activations have another number of features on another rank."""
    widths = [part.layers[layer].activation_sum.numel() if layer in part.layers else 0 for layer in LAYERS]
    found = torch.cat(ranks.gather(torch.tensor([widths])))
    return [layer for layer, same in zip(LAYERS, (found == found[0]).all(dim=0).tolist(), strict=True) if not same]


def _take_over_all(metric: NormalizedMargin, ranks: Ranks, has_any: bool) -> None:
    """Add what the other ranks have; where this one has none of its own, what the metric holds is dropped."""
    distances = torch.cat(list(metric.distances))
    moments = torch.cat([metric.activation_square_sum[None], metric.count[None], metric.activation_sum.flatten()])[None]
    metric.distances = ranks.gather(distances if has_any else distances[:0])
    total = torch.cat(ranks.gather(moments if has_any else moments[:0])).sum(dim=0)
    metric.activation_square_sum, metric.count = total[0], total[1]
    metric.activation_sum = total[2:].reshape(metric.activation_sum.shape)


def _signature(probe: Probe) -> Signature:
    """The signature of the samples, which this process computes."""
    require_room_for_graph(probe, max(probe.sizes))
    margins: dict[str, LayerMargins] = {}
    shapes: dict[str, set[torch.Size]] = {layer: set() for layer in LAYERS}  # of one sample, over the batches
    undifferentiable = None
    all_logits = Rows()
    for batch in probe.batches:
        inputs = None if batch.inputs is None else batch.inputs.detach().requires_grad_()
        with probe.tapped() as caught:
            content = batch.content if inputs is None else batch.with_inputs(inputs)
            logits = probe.logits_on(content, len(batch.targets))
        tensors = ({} if inputs is None else {"input": inputs}) | dict(caught)
        gap = logit_gap(logits, batch.targets.to(logits.device))
        try:
            gradients = _gradients(gap.sum(), tensors.values())
        except RuntimeError as error:  # of an operation that cannot be differentiated so, as reentrant checkpoints
            if out_of_memory(error):
                raise
            gradients, undifferentiable = (None,) * len(tensors), f"the logits have no derivatives ({one_line(error)})"
        all_logits.add(logits.detach())
        for (layer, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            shapes[layer].add(tensor.shape[1:])
            if gradient is not None and len(shapes[layer]) == 1:
                margins.setdefault(layer, LayerMargins()).add(gap, gradient, tensor)
    layers = {layer: margins[layer].metric() for layer in LAYERS if layer in margins and len(shapes[layer]) == 1}
    absent = {
        layer: DIFFERING if len(shapes[layer]) > 1 else _why_absent(probe, layer, undifferentiable)
        for layer in LAYERS
        if layer not in layers
    }
    return Signature(layers, all_logits.on_cpu().double(), absent)


def _why_no_statistics(signature: Signature, probe: Probe) -> str:
    correct = int((logit_gap(signature.logits, probe.targets) > 0).sum())
    if correct < FEWEST_CORRECT:
        return f"fewer than {FEWEST_CORRECT} samples are classified correctly; the total variation is given"
    return f"fewer than {FEWEST_CORRECT} samples have a gradient of the logits there; the total variation is given"


def _why_absent(probe: Probe, layer: str, undifferentiable: str | None) -> str:
    if _is_there(probe, layer):
        none = "no gradient of the logits arrives there; the forward detaches it, or has no gradients in eval mode"
        return undifferentiable or none
    return str(probe.no_inputs) if layer == "input" else probe.layout.missing[layer]


def _is_there(probe: Probe, layer: str) -> bool:
    if layer == "input":
        return probe.batches[0].inputs is not None
    return layer in (tap.layer for tap in probe.layout.taps)


def _gradients(total: Tensor, tensors: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
    """Derivatives by each tensor; None for those that `total` does not depend on."""
    tensors = tuple(tensors)
    if not tensors or not total.requires_grad:
        return (None,) * len(tensors)
    return torch.autograd.grad(total, tensors, allow_unused=True)
