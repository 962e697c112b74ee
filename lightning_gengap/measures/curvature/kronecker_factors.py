"""The Kronecker factors of the Gauss-Newton matrix (Martens and Grosse 2015), layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from lightning_gengap.derivatives.gauss_newton import SAMPLES
from lightning_gengap.derivatives.jacobian import Weights, differentiable_attention, gradients, leaves_of
from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.derivatives.per_sample import precise
from lightning_gengap.derivatives.weights import logits_at, require_room_for_graph, trained
from lightning_gengap.measures.curvature.diagonal_curvature import refuse_many_classes
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import subsample
from lightning_gengap.network.trace import first_float_tensor

LARGEST_SIDE = 5000  # of a factor: 200 MB, and its eigenvalues some ten seconds on one core
MOST_NUMBERS = 2**24  # in the patches that go together


@dataclass
class Layer:
    """A linear layer or convolution and the running sums of its two factors.

    Attributes:
        names: of its trained parameters: the weight, then the bias if that is trained too.
        inner: sum of a a^T over positions, a the inputs of one output with a 1 appended for a bias.
        outer: sum of b b^T over positions and classes, b the outputs' share of the columns of J^T B.
        positions: how many a there were; in a convolution one per sample and pixel.
        trusted: whether its parameters' gradient was always the sum of b a^T over its calls.
        calls: inputs and outputs of the calls in the present forward.
    """

    module: nn.Linear | nn.Conv2d
    names: tuple[str, ...]
    inner: Tensor
    outer: Tensor
    positions: int = 0
    trusted: bool = True
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def with_bias(self) -> bool:
        """Whether a 1 is appended to the inputs."""
        return len(self.names) == 2

    def soft_rank(self, samples: int, ridge: float) -> float:
        """Sum over pairs of the factors' eigenvalues of a b / (a b + ridge)."""
        inner, outer = (
            torch.linalg.eigvalsh(total.cpu().double() / count).clamp(min=0)
            for total, count in ((self.inner, max(self.positions, 1)), (self.outer, samples))
        )
        return sum(float((inner * b / (inner * b + ridge)).sum()) for b in outer)


def factored(probe: Probe) -> list[Layer]:
    """The layers that qualify, with the sums of their factors over the curvature samples.

    Raises:
        Undefined: no parameter is trained, or there are too many classes.
        Exception: whatever a derivative raises.
    """
    named = trained(probe)
    names, weights = list(named), tuple(named.values())
    layers = candidates(probe.model, named)
    if not layers:
        return []
    contents, _, sizes = subsample(probe, SAMPLES)
    require_room_for_graph(probe, max(sizes))
    generator = torch.Generator().manual_seed(probe.seed)
    for content, size in zip(contents, sizes, strict=True):
        leaves = leaves_of(weights)
        with differentiable_attention(), _caught(layers):
            logits = logits_at(probe, names, content, size, leaves)
        refuse_many_classes(logits.shape[1])
        met = [layer for layer in layers if layer.calls]
        outputs = tuple(output for layer in met for _, output in layer.calls)
        if logits.requires_grad and outputs:
            with differentiable_attention():
                _check(met, dict(zip(names, leaves, strict=True)), logits, outputs, generator)
                _accumulate(met, logits, outputs)
        for layer in layers:
            layer.trusted &= bool(layer.calls)
            layer.calls.clear()
    return [layer for layer in layers if layer.trusted]


def candidates(model: nn.Module, weights: Mapping[str, Tensor]) -> list[Layer]:
    """Layers with trained weights that no other module holds, as far as can be seen without a forward."""
    holders = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    layers, wanted = [], 0
    for prefix, module in model.named_modules():
        if not _plain(module):
            continue
        parts = {name: module._parameters.get(name) for name in ("weight", "bias")}
        own = {f"{prefix}.{name}".lstrip("."): part for name, part in parts.items() if part is not None}
        alone = all(holders[id(parameter)] == 1 for parameter in own.values())
        names = tuple(name for name in own if name in weights)
        if not (alone and names and names[0].endswith("weight")):
            continue
        weight = weights[names[0]]
        sides = weight[0].numel() + len(names) - 1, len(weight)
        if max(sides) <= LARGEST_SIDE:
            wanted += 8 * sum(side**2 for side in sides)  # of all: zeros take no room before they are written
            require_room(wanted + 3 * 8 * max(sides) ** 2, "the Kronecker factors", FREE)
            inner, outer = (weight.new_zeros(side, side, dtype=precise(weight.device)) for side in sides)
            layers.append(Layer(module, names, inner, outer))
    return layers


def _plain(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


@contextmanager
def _caught(layers: list[Layer]) -> Iterator[None]:
    """Store the inputs and outputs of the layers' calls. The forward goes on with a copy: it may write in place."""
    handles = []
    for layer in layers:

        def catch(module: nn.Module, args: Any, kwargs: Any, output: Any, layer: Layer = layer) -> Any:
            entering = first_float_tensor((args, kwargs))
            if entering is None or not isinstance(output, Tensor) or not output.requires_grad:
                return None
            layer.calls.append((entering.detach(), output))
            return output.clone()

        handles.append(layer.module.register_forward_hook(catch, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(
    layers: list[Layer], leaves: Mapping[str, Tensor], logits: Tensor, outputs: Weights, generator: torch.Generator
) -> None:
    """Trust only layers whose parameters' gradient is the sum of b a^T: they have no other use and no other forward."""
    cotangent = torch.randn(logits.shape, generator=generator).to(logits)
    inputs = tuple(leaves[name] for layer in layers for name in layer.names)
    found = list(gradients(logits, (*outputs, *inputs), cotangent, retain_graph=True))
    moved, exact = found[: len(outputs)], found[len(outputs) :]
    for layer in layers:
        mine, moved = moved[: len(layer.calls)], moved[len(layer.calls) :]
        parts, exact = exact[: len(layer.names)], exact[len(layer.names) :]
        whole = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)
        product = torch.zeros_like(whole)
        for (entering, _), change in zip(layer.calls, mine, strict=True):
            for rows, part in _rows(layer, entering, change):
                product += part.T @ rows
        tolerance = 10 * torch.finfo(whole.dtype).eps ** 0.5
        layer.trusted &= bool((product - whole).norm() <= tolerance * whole.norm())


def _accumulate(layers: list[Layer], logits: Tensor, outputs: Weights) -> None:
    """Add a chunk to the sums: inputs once, and for every class the outputs' share of a column of J^T B."""
    for layer in layers:
        for entering, output in layer.calls:
            for rows, _ in _rows(layer, entering, output.detach()):
                layer.inner += (rows.T @ rows).to(layer.inner.dtype)
                layer.positions += len(rows)
    probabilities = logits.detach().softmax(dim=1)
    for axis, p in zip(torch.eye(logits.shape[1]).to(logits), probabilities.T, strict=True):
        columns = iter(gradients(logits, outputs, p.sqrt()[:, None] * (axis - probabilities), retain_graph=True))
        for layer in layers:
            for _ in layer.calls:
                part = _outputs_as_rows(layer, next(columns))
                layer.outer += (part.T @ part).to(layer.outer.dtype)


def _rows(layer: Layer, entering: Tensor, leaving: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs, with a 1 for the bias, and outputs as rows, one per position; in blocks, for patches are many numbers."""
    module = layer.module
    wide = layer.inner.shape[0] * leaving[0].numel() // leaving.shape[1 if isinstance(module, nn.Conv2d) else -1]
    step = max(1, MOST_NUMBERS // max(wide, 1))
    for inputs, outputs in zip(entering.split(step), leaving.split(step), strict=True):
        if isinstance(module, nn.Conv2d):
            padding = cast("tuple[int, ...]", module.padding)  # `_plain` refuses words
            patches = unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
            rows = patches.transpose(1, 2).flatten(0, 1)
        else:
            rows = inputs.reshape(-1, inputs.shape[-1])
        if layer.with_bias:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        yield rows, _outputs_as_rows(layer, outputs)


def _outputs_as_rows(layer: Layer, outputs: Tensor) -> Tensor:
    if isinstance(layer.module, nn.Conv2d):
        return outputs.flatten(2).transpose(1, 2).flatten(0, 1)
    return outputs.reshape(-1, outputs.shape[-1])
