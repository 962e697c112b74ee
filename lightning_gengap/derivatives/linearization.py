"""A function's forward-mode derivative at a point, traced once: every later product runs the tangent part alone.

`torch.func.linearize` does the same, but its constant folding copies the values that do not depend on the tangent:
three copies of each weight of a linear layer, in every chunk. Here they are kept as they are.
"""

from __future__ import annotations

import linecache
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.fx import graph_module
from torch.fx.experimental.proxy_tensor import make_fx


def linearize(function: Callable[..., Tensor], *at: Tensor) -> Callable[..., Tensor]:
    """The map from tangents, shaped like the arguments, to the derivative of the function along them.

    A product costs about two forwards. What it needs of the forward is kept. The arguments are among it and are not
    copied: they must not change as long as the map is used. The function has to do the same operations at every call.
    """

    def pushed(*tangents: Tensor) -> Tensor:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(value, tangent) for value, tangent in zip(at, tangents, strict=True)]
            output = function(*duals)
            tangent = forward_ad.unpack_dual(output).tangent
            return torch.zeros_like(output) if tangent is None else tangent

    # Tangents without memory of their own: only their shapes matter here.
    tangents = [value.new_empty(()).expand_as(value) for value in at]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on its own decompositions
        traced = make_fx(pushed)(*tangents)
    _forget_source(traced)
    return _folded(traced)


def _folded(traced: fx.GraphModule) -> fx.GraphModule:
    """The graph without the nodes that no input influences; the values that the rest needs of them are kept."""
    graph = traced.graph
    for node in reversed(graph.nodes):
        if not node.users and node.op == "call_function" and not _writes(node):
            graph.erase_node(node)  # questions of the dispatcher, for which whole activations would be kept
    varying: set[fx.Node] = set()
    constant: list[fx.Node] = []
    interpreter = fx.Interpreter(traced)
    for node in list(graph.nodes):
        if node.op in ("placeholder", "output") or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
        else:
            constant.append(node)
            interpreter.env[node] = interpreter.run_node(node)
    for number, node in enumerate(constant):
        if any(user in varying for user in node.users):
            name = f"kept_{number}"
            traced.register_buffer(name, interpreter.env[node], persistent=False)
            with graph.inserting_before(node):
                kept = graph.get_attr(name)
            node.replace_all_uses_with(kept, delete_user_cb=lambda user: user in varying)
    for node in reversed(constant):
        graph.erase_node(node)
    traced.recompile()
    _forget_source(traced)
    return traced


def _forget_source(traced: fx.GraphModule) -> None:
    """Drop the text that the graph was compiled from: torch keeps it, for tracebacks, as long as the process lives."""
    name = type(traced).forward.__code__.co_filename
    linecache.cache.pop(name, None)
    loader = getattr(graph_module, "_loader", None)
    getattr(loader, "eval_cache", {}).pop(name, None)


def _writes(node: fx.Node) -> bool:
    return not isinstance(node.target, OpOverload) or bool(node.target._schema.is_mutable)
