"""Forward hooks that exchange every weight layer for its folded map, and every batch norm for an identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding import close, folded_bias, scale_of
from lightning_gengap.network.layer_graph import LayerGraph
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import first_float_tensor
from lightning_gengap.network.weight_layers import BATCH_NORMS, EMBEDDINGS, weight_operator

Hook = Callable[..., Tensor]


@contextmanager
def folded_layers(probe: Probe, weights: dict[str, Tensor], graph: LayerGraph) -> Iterator[list[str]]:
    """Run forwards with the folded weights; the graph takes up what the layers read and return.

    The forward raises `Undefined` where a module does not do what its kind does, or a batch norm reads anything but the
    tensor that its layer returned. Embeddings that are called are yielded by name; their outputs become leaves.
    """
    embedded: list[str] = []
    modules = probe.modules
    norms = {c.module: c.after for c in probe.layout.called if c.after and isinstance(modules[c.module], BATCH_NORMS)}
    behind = {layer: modules[norm] for norm, layer in norms.items()}
    hooks = {name: _folded_layer(name, weight, behind.get(name), graph) for name, weight in weights.items()}
    hooks |= {name: _identity_norm(name, layer, graph) for name, layer in norms.items()}
    hooks |= {
        name: _leaf_embedding(name, embedded) for name, module in modules.items() if isinstance(module, EMBEDDINGS)
    }
    handles = [modules[name].register_forward_hook(hook, with_kwargs=True) for name, hook in hooks.items()]
    try:
        yield embedded
    finally:
        for handle in handles:
            handle.remove()


def _folded_layer(name: str, weight: Tensor, norm: nn.Module | None, graph: LayerGraph) -> Hook:
    """Give what the folded weight and bias make of the layer's input, and check that they do what the layer does."""

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        given = first_float_tensor((args, kwargs))
        strange = Undefined(f"{type(module).__name__} {name!r} does not apply its weight as its kind does")
        if given is None or not isinstance(output, Tensor):
            raise strange
        made = weight_operator(module, weight.to(given))(given)
        bias = module.bias if norm is None else folded_bias(norm, module)
        if bias is not None:
            spatial = () if isinstance(module, nn.Linear) else (1,) * (weight.ndim - 2)
            made = made + bias.detach().to(given).reshape(-1, *spatial)
        if made.shape != output.shape or (norm is None and not close(made, output)):
            raise strange
        made = made if made.requires_grad else made.requires_grad_()
        graph.record_call(name, given, made)
        return made

    return hook


def _identity_norm(name: str, layer: str, graph: LayerGraph) -> Hook:
    """Pass on the input, and check that the batch norm normalises what its layer returned."""

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        given = first_float_tensor((args, kwargs))
        if given is None or not graph.is_output(layer, given):
            raise Undefined(f"batch norm {name!r} does not read the output of {layer!r} as it is")
        normalised = _normalised(module, given)
        plain = isinstance(output, Tensor) and close(normalised, output)
        if not plain and not (isinstance(output, Tensor) and close(_activated(module, normalised), output)):
            raise Undefined(f"{type(module).__name__} {name!r} does not normalise as a batch norm does")
        passed = given.clone()
        graph.record_norm(name, layer, passed)
        return passed if plain else _activated(module, passed)

    return hook


def _normalised(norm: Any, given: Tensor) -> Tensor:
    """What a batch norm in eval mode makes of `given`."""

    def along_channels(value: Tensor) -> Tensor:
        return value.detach().to(given).reshape(-1, *[1] * (given.ndim - 2))

    made = (given - along_channels(norm.running_mean)) * along_channels(scale_of(norm))
    return made if norm.bias is None else made + along_channels(norm.bias)


def _activated(norm: nn.Module, normalised: Tensor) -> Tensor:
    """What the modules in a batch norm make of what it has normalised: some hold their activation, as timm's do."""
    made = normalised.clone()  # an activation may write to it
    for module in norm.children():
        made = module(made)
    return made


def _leaf_embedding(name: str, embedded: list[str]) -> Hook:
    """Make the output a leaf of the graph, and check that it is a linear map of one-hot inputs."""

    def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        embedded.append(name)
        genuine = type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward)
        if not genuine or module.max_norm is not None or getattr(module, "mode", "sum") == "max":
            raise Undefined(f"{type(module).__name__} {name!r} is no linear map of one-hot inputs")
        return output.detach().requires_grad_()

    return hook
