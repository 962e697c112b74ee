"""What one traced forward tells about a network: the representations to watch, and the modules that it calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_gengap.errors import LayerError, closest
from lightning_gengap.network.logits import logits_of
from lightning_gengap.network.trace import Side, Trace, Visit, clean_name, trace_forward
from lightning_gengap.samples.batches import Forward, ProbeBatch
from lightning_gengap.samples.nested import handed_out

LAYERS = ("input", "h1", "h2", "h3")
_MOST_SHOWN = 20  # modules in one message
_LAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Tap:
    """Where one representation is read: a module's output, or its input (shown as `name:in`).

    Attributes:
        layer: its name in every key: `input`, `h1`, `h2` or `h3`.
        module: the module's clean name.
        side: the end of the call.
        call: which call of the module within one forward, from 0.
        reused: whether there are several (then shown as `name#call`).
        clone: whether a later operation in place would overwrite the tensor before it is read.
    """

    layer: str
    module: str
    side: Side
    call: int = 0
    reused: bool = False
    clone: bool = False

    def __str__(self) -> str:
        return f"{self.module}{f'#{self.call}' if self.reused else ''}{':in' if self.side == 'input' else ''}"


@dataclass(frozen=True)
class CalledModule:
    """A module that the forward called.

    Attributes:
        module: its clean name.
        input_shape: of its first float input, without the batch axis.
        after: the module whose output was its input, or None.
        calls: how often one forward calls it.
    """

    module: str
    input_shape: tuple[int, ...]
    after: str | None
    calls: int


@dataclass(frozen=True)
class Layout:
    """The layout of a network, found once, on one batch.

    Attributes:
        taps: the representations to watch.
        called: the modules that the forward calls, in order of their first calls.
        missing: why there is no tap for a layer, by its name.
    """

    taps: tuple[Tap, ...]
    called: tuple[CalledModule, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, batch: ProbeBatch, forward: Forward, layers: Sequence[str] | None = None) -> Layout:
        """Trace one forward of `model` on `batch`; call inside `undisturbed`.

        Raises:
            LayerError: a name in `layers` was not met in the forward, or cannot be watched.
            LogitsError: the output is not logits of shape (batch, classes).
        """

        def run(inputs: Tensor | None) -> Tensor:
            content = batch.content if inputs is None else batch.with_inputs(inputs)
            return logits_of(forward(model, handed_out(content)), len(batch.targets))

        trace = trace_forward(model, batch.inputs, run)
        if layers is None:
            taps, missing = _chosen_taps(model, trace)
        else:
            taps = _named_taps(trace, layers)
            missing = dict.fromkeys(LAYERS[1 + len(taps) :], f"layers= names {len(taps)} of the three")
        return cls(taps, _called_modules(trace), missing)


def _chosen_taps(model: nn.Module, trace: Trace) -> tuple[tuple[Tap, ...], dict[str, str]]:
    """Choose the hidden representations h1, h2 and h3.

    Depth counts the calls of modules with parameters. h3 is the input of the last linear or convolutional layer. h1
    and h2 are the tensors nearest to 1/3 and 2/3 of the depth, before h3, that every path from the inputs to the
    logits passes through: the output of a residual block qualifies, the inside of one does not. Only tensors with the
    examples on their first axis are chosen. A network with fewer layers has only some of them, or none; the reasons
    are given by layer.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    entered = (visit for visit in reversed(trace.visits) if visit.side == "input")
    last = next((visit for visit in entered if isinstance(modules[visit.module], _LAST_LAYERS)), None)
    if last is None:
        reason = "the forward calls no linear or convolutional module; layers=[...] can name others to watch"
        return (), dict.fromkeys(LAYERS[1:], reason)
    if last.depth == 0:
        reason = f"no layer with weights stands before {last.module}, the last linear or convolutional one"
        return (), dict.fromkeys(LAYERS[1:], reason)
    stages = [stage for stage in _stage_ends(trace, below=last.depth) if stage.edge != last.edge]
    chosen = {"h3": _named_after(trace, last)} if _examples_first(trace, last) else {}
    if stages:
        chosen["h1"] = min(stages, key=lambda v: abs(v.depth - trace.depth / 3))
        later = [v for v in stages if v.depth > chosen["h1"].depth]
        if later:
            chosen["h2"] = min(later, key=lambda v: abs(v.depth - 2 * trace.depth / 3))
    missing = {} if "h3" in chosen else {"h3": f"the samples are not on the first axis of the input of {last.module}"}
    absent = [layer for layer in ("h1", "h2") if layer not in chosen]
    missing |= dict.fromkeys(absent, _why_no_stage(trace, last, len(stages)) if absent else "")
    return tuple(_tap(trace, layer, chosen[layer]) for layer in sorted(chosen)), missing


def _why_no_stage(trace: Trace, last: Visit, found: int) -> str:
    """Why fewer than two tensors before the input of the last layer can be watched."""
    between = [v for v in trace.visits if 0 < v.depth < last.depth and v.edge != last.edge]
    where = f"{'no' if found == 0 else 'only one'} tensor before the input of {last.module}, the last layer,"
    through = trace.bottlenecks()
    if len({v.depth for v in between}) <= found:
        layers = "layer with weights stands" if last.depth == 1 else "layers with weights stand"
        return f"only {last.depth} {layers} before {last.module}, the last linear or convolutional one"
    if any(v.edge in through and not _examples_first(trace, v) for v in between):
        return f"{where} is on every path of gradients to the logits and has the samples on its first axis"
    return f"{where} is on every path of gradients to the logits"


def _stage_ends(trace: Trace, below: int) -> list[Visit]:
    """At each depth the last tensor that everything passes through, in order of depth."""
    through = trace.bottlenecks()
    ends: dict[int, Visit] = {}
    for visit in trace.visits:
        met = visit.depth in ends and ends[visit.depth].edge == visit.edge
        if visit.edge in through and 0 < visit.depth < below and _examples_first(trace, visit) and not met:
            ends[visit.depth] = visit
    return [_named_after(trace, ends[depth]) for depth in sorted(ends)]


def _named_after(trace: Trace, visit: Visit) -> Visit:
    """The visit that names this tensor best: the outermost module that made it, else the given one."""
    met = [v for v in trace.visits if v.edge == visit.edge and v.edge is not None]
    passed_on = {(v.module, v.call) for v in met if v.side == "input"}  # by an identity, or dropout in eval mode
    made = [v for v in met if v.side == "output" and (v.module, v.call) not in passed_on]
    return min(made, key=lambda v: v.module.count("."), default=visit)


def _examples_first(trace: Trace, visit: Visit) -> bool:
    """Whether the examples lie on the first axis: not in sequence-first networks, nor where axes are merged."""
    return visit.shape[:1] == (trace.examples,)


def _tap(trace: Trace, layer: str, visit: Visit) -> Tap:
    reused = trace.calls[visit.module] > 1
    return Tap(layer, visit.module, visit.side, visit.call, reused, clone=visit.overwritten)


def _called_modules(trace: Trace) -> tuple[CalledModule, ...]:
    makers = {v.edge: v.module for v in reversed(trace.visits) if v.side == "output" and v.edge is not None}
    return tuple(
        CalledModule(v.module, v.shape[1:], None if v.edge is None else makers.get(v.edge), trace.calls[v.module])
        for v in trace.visits
        if v.side == "input" and v.call == 0
    )


def check_layers(layers: object) -> None:
    """Refuse what is not one to three module names.

    Raises:
        LayerError: it is something else.
    """
    named = isinstance(layers, Sequence) and not isinstance(layers, str) and all(isinstance(n, str) for n in layers)
    if not named or not 1 <= len(layers) <= 3:  # type: ignore[arg-type]
        raise LayerError(
            "layers",
            got=repr(layers),
            expected="one to three module names, for h1, h2 and h3",
            remedy="For example layers=['layer1', 'layer2', 'layer3'].",
        )


def _named_taps(trace: Trace, layers: Sequence[str]) -> tuple[Tap, ...]:
    """The taps that the user named, as h1, h2 and h3."""
    check_layers(layers)
    return tuple(_named_tap(trace, layer, name) for layer, name in zip(LAYERS[1:], layers, strict=False))


def _named_tap(trace: Trace, layer: str, name: str) -> Tap:
    side: Side = "input" if name.endswith(":in") else "output"
    module, _, call = clean_name(name.removesuffix(":in")).partition("#")
    wanted = (module, side, call or "0")
    visit = next((v for v in trace.visits if (v.module, v.side, str(v.call)) == wanted), None)
    if visit is None:
        called = sorted(dict.fromkeys(v.module for v in trace.visits), key=lambda each: each.count("."))
        spelling = "" if module in called else f"{closest(module, called)} "
        raise LayerError(
            f"layer {layer}",
            got=repr(name),
            expected=f"a module that the forward calls: {_shown(called)}",
            remedy=f"{spelling}Append ':in' for a module's input, '#1' for its second call.",
        )
    tap = _tap(trace, layer, visit)
    if not _examples_first(trace, visit):
        raise LayerError(
            f"layer {layer}",
            got=f"{str(tap)!r} of shape {visit.shape} for {trace.examples} examples",
            expected="a tensor with the examples on its first axis",
            remedy="Name another module, or give recurrent layers and attention batch_first=True.",
        )
    return tap


def _shown(names: Sequence[str]) -> str:
    """Names in one line: the first of them where there are many."""
    left = len(names) - _MOST_SHOWN
    return ", ".join([*names[:_MOST_SHOWN], *([f"{left} more"] if left > 0 else [])])
