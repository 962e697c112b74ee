"""One traced forward: which modules ran, in which order, and which tensors everything passes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lightning_gengap.network.graph import Edge, edge_of, edges_below, topological
from lightning_gengap.samples.nested import flat_tensors

Side = Literal["output", "input"]


@dataclass(frozen=True)
class Visit:
    """One end of one call of a module, as met in the traced forward.

    Attributes:
        depth: parameterised module calls completed so far.
        edge: the tensor's place in the autograd graph; None where no gradient flows.
        tensor: the tensor itself, kept so that identities stay unique while the trace lives.
        version: its in-place version when met; it differs from the final one where an in-place operation follows.
        shape: its shape.
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
        """Whether a later in-place operation changed this tensor."""
        return version_of(self.tensor) != self.version


@dataclass
class Trace:
    """The visits of one forward in order, its number of examples, and the graph's ends: logits and inputs."""

    visits: list[Visit] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    depth: int = 0
    examples: int = 0
    root: Edge | None = None
    source: Any = None

    def bottlenecks(self) -> set[Edge]:
        """The graph's tensors that every path from the inputs to the logits passes through.

        A tensor is one exactly when (paths from logits to it) x (paths from it to the inputs) equals all paths;
        counted in one topological sweep each, with Python's unbounded integers.
        """
        if self.root is None or self.source is None:
            return {visit.edge for visit in self.visits if visit.edge is not None}
        order = topological(self.root[0])
        from_logits: dict[Edge, int] = {self.root: 1}
        arriving: dict[Any, int] = {self.root[0]: 1}
        for node in order:
            for edge in edges_below(node):
                from_logits[edge] = from_logits.get(edge, 0) + arriving[node]
                arriving[edge[0]] = arriving.get(edge[0], 0) + arriving[node]
        to_source: dict[Any, int] = {}
        for node in reversed(order):
            below = sum(to_source[edge[0]] for edge in edges_below(node))
            to_source[node] = below + (1 if node is self.source else 0)
        total = to_source[self.root[0]]
        return {edge for edge, count in from_logits.items() if count * to_source[edge[0]] == total}


def trace_forward(model: nn.Module, inputs: Tensor | None, run: Callable[[Tensor | None], Tensor]) -> Trace:
    """Run one forward with temporary hooks and record what happens.

    Args:
        model: the module whose submodules are watched; call inside `undisturbed`.
        inputs: the float inputs, or None for integer inputs such as token ids.
        run: the forward: inputs (requiring grad) to logits.
    """
    trace = Trace()
    handles = []
    leaf = None if inputs is None else inputs.detach().requires_grad_()
    for name, module in model.named_modules():
        if name:
            before, after = _recorders(trace, clean_name(name), _is_parameterised(module))
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
    """The inputs' node; where no gradient reaches them, that of the first parameterised module's output it reaches.

    For integer inputs that is an embedding as a rule, for inputs prepared without gradients the first layer.
    """
    reached = set(topological(root))
    start = None if leaf is None else edge_of(leaf)
    if start is not None and start[0] in reached:
        return start[0]
    first = (v.edge[0] for v in trace.visits if v.side == "output" and v.depth > 0 and v.edge is not None)
    return next((node for node in first if node in reached), None)


def first_float_tensor(content: Any) -> Tensor | None:
    """The first float tensor in a module's inputs or output: recurrent layers return tuples."""
    return next((tensor for tensor in flat_tensors(content) if tensor.is_floating_point()), None)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 for those of inference mode, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


def clean_name(name: str) -> str:
    """A module's name without the wrappers that compilation adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _is_parameterised(module: nn.Module) -> bool:
    if isinstance(module, ParametrizationList):
        return False  # holds the weights of a layer, which itself counts
    return is_parametrized(module) or any(parameter is not None for parameter in module._parameters.values())


def _recorders(trace: Trace, name: str, parameterised: bool) -> tuple[Any, Any]:
    def record(side: Side, content: Any, call: int) -> None:
        tensor = first_float_tensor(content)
        if tensor is not None:
            version = version_of(tensor)
            visit = Visit(name, side, call, trace.depth, edge_of(tensor), tensor, version, tuple(tensor.shape))
            trace.visits.append(visit)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        record("input", (args, kwargs), trace.calls.get(name, 0))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        trace.depth += parameterised
        record("output", output, trace.calls.get(name, 0))
        trace.calls[name] = trace.calls.get(name, 0) + 1

    return before, after
