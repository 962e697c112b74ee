"""One traced forward: which modules were called, in which order, and with which tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lightning_gengap.network.graph import Edge, bottlenecks, edge_of, topological_order
from lightning_gengap.samples.nested import flat_tensors

Side = Literal["output", "input"]


@dataclass(frozen=True)
class Visit:
    """One end of one call of a module.

    Attributes:
        module: the module's clean name.
        side: what went in, or what came out.
        call: which call of the module within the forward, from 0.
        depth: how many calls of modules with parameters were completed before.
        edge: the tensor's place in the autograd graph; None where no gradient flows.
        tensor: the tensor itself, kept so that identities stay unique while the trace lives.
        version: how often the tensor had been changed in place when it was met.
        shape: its shape then.
    """

    module: str
    side: Side
    call: int
    depth: int
    edge: Edge | None
    tensor: Tensor
    version: int
    shape: tuple[int, ...]

    @property
    def overwritten(self) -> bool:
        """Whether a later operation changed this tensor in place."""
        return version_of(self.tensor) != self.version


@dataclass
class Trace:
    """What one forward did.

    Attributes:
        visits: both ends of all calls, in order.
        calls: how often each module was called.
        depth: how many calls of modules with parameters were completed.
        examples: the number of examples.
        root: the logits' place in the graph; None where no gradient flows.
        source: the operation that stands for the inputs; None where no gradient flows.
    """

    visits: list[Visit] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    depth: int = 0
    examples: int = 0
    root: Edge | None = None
    source: Any = None

    def bottlenecks(self) -> set[Edge]:
        """The graph's tensors that every path from the inputs to the logits passes through."""
        if self.root is None or self.source is None:
            return {visit.edge for visit in self.visits if visit.edge is not None}
        return bottlenecks(self.root, self.source)


def trace_forward(model: nn.Module, inputs: Tensor | None, run: Callable[[Tensor | None], Tensor]) -> Trace:
    """Run one forward, from inputs (None for integers such as token ids) to logits, and record what happens."""
    trace = Trace()
    handles = []
    leaf = None if inputs is None else inputs.detach().requires_grad_()
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):  # these take no hooks: one is a step of its own
            before, after = _recorders(trace, clean_name(name), _has_parameters(module))
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
    try:
        logits = run(leaf)
    finally:
        for handle in handles:
            handle.remove()
    trace.examples, trace.root = len(logits), edge_of(logits)
    trace.source = None if trace.root is None else _source(trace, trace.root[0], leaf)
    return trace


def _source(trace: Trace, root: Any, leaf: Tensor | None) -> Any:
    """The operation of the inputs; else that of the first output, of a module with parameters, that gradients reach.

    Integer inputs have no gradient: an embedding stands for them as a rule. Inputs that the model prepares without
    gradients have none either: the first layer stands for them.
    """
    reached = set(topological_order(root))
    start = None if leaf is None else edge_of(leaf)
    if start is not None and start[0] in reached:
        return start[0]
    first = (v.edge[0] for v in trace.visits if v.side == "output" and v.depth > 0 and v.edge is not None)
    return next((node for node in first if node in reached), None)


def _recorders(trace: Trace, name: str, has_parameters: bool) -> tuple[Any, Any]:
    """Hooks that record what goes into a module, and what comes out of it."""

    def record(side: Side, content: Any) -> None:
        tensor = first_float_tensor(content)
        if tensor is not None:
            call, version, shape = trace.calls.get(name, 0), version_of(tensor), tuple(tensor.shape)
            trace.visits.append(Visit(name, side, call, trace.depth, edge_of(tensor), tensor, version, shape))

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        record("input", (args, kwargs))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        trace.depth += has_parameters
        record("output", output)
        trace.calls[name] = trace.calls.get(name, 0) + 1

    return before, after


def _has_parameters(module: nn.Module) -> bool:
    """Whether a module holds parameters of its own: it then counts as a layer."""
    if isinstance(module, ParametrizationList):
        return False  # holds the weights of a layer, which itself counts
    return is_parametrized(module) or any(parameter is not None for parameter in module._parameters.values())


def first_float_tensor(content: Any) -> Tensor | None:
    """The first float tensor in a module's inputs or output: recurrent layers return tuples."""
    return next((tensor for tensor in flat_tensors(content) if tensor.is_floating_point()), None)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 for tensors of inference mode, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


def clean_name(name: str) -> str:
    """A module's name without the wrappers that compilation adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
