"""A model at one moment on one fixed set of training samples; measures pull what they need from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.network.functional_call import placed, run_at
from lightning_gengap.network.layers import Layout, Tap
from lightning_gengap.network.logits import logits_of
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.network.rows import Rows
from lightning_gengap.network.trace import clean_name, first_float_tensor
from lightning_gengap.samples.batches import Forward, ProbeBatch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.samples.nested import exchange, handed_out
from lightning_gengap.samples.others import Others

State = Mapping[str, Tensor]
Inputs = Tensor | Callable[[int], Tensor]  # of all samples, or what gives those of each batch by its place
Quantity = TypeVar("Quantity")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A model and the labelled samples it is measured on; use it inside `undisturbed(model)`.

    Attributes:
        model: the watched module, in eval mode.
        batches: the samples in chunks; no result depends on the chunking, unless samples interact.
        layout: the taps, and the modules in the order of the forward.
        forward: maps (model, batch content) to logits.
        train_samples: the number of distinct samples that are trained on; None if unknown.
        initial_state: parameters and buffers at the start of training; None if unknown.
        memory: warm starts that measures carry from one measurement to the next.
        seed: for the fixed pairs, shifts and noise of the perturbation measures.
        ridge: the weight decay as a ridge on the mean loss: one number, or by parameter name a tensor that is 0-d or
            of its shape; None for that of the optimizers.
        optimizers: what trains the model; none if unknown.
        wanted: the keys that are asked for, where a measure can leave out the others at less cost; None for all.
        inseparable: why samples cannot be computed alone; None where they can.
        notes: how values came to be, where that needs saying; one sentence each, which the user is told once.
        ranks: the processes that share the forwards; None where this one computes all.
        others: the training samples that are not among these; None where they cannot be read.
        named: the measures that the user asked for by name.
        until: the time of `time.perf_counter` until when a measure may take what it can also take another time.
        places: where these samples stand among all monitored ones; None where they are all.

    Example:
        >>> from lightning_gengap.samples.batches import read_batch
        >>> from lightning_gengap.undisturbed import undisturbed
        >>> model, batch = nn.Linear(3, 2), read_batch((torch.eye(3), torch.tensor([0, 1, 1])))
        >>> with undisturbed(model):
        ...     layout = Layout.of(model, batch, default_forward)
        ...     probe = Probe(model=model, batches=(batch,), layout=layout)
        ...     shapes = [logits.shape for _, logits in probe.forwards()]
        >>> shapes
        [torch.Size([3, 2])]
    """

    model: nn.Module
    batches: tuple[ProbeBatch, ...]
    layout: Layout
    forward: Forward = default_forward
    train_samples: int | None = None
    initial_state: State | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    ridge: float | State | None = None
    optimizers: Sequence[Any] = ()
    wanted: frozenset[str] | None = None
    inseparable: str | None = None
    notes: list[str] = field(default_factory=list)
    ranks: Ranks | None = None
    others: Others | None = None
    named: frozenset[str] = frozenset()
    until: float = math.inf
    places: Tensor | None = None
    _shared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def wants(self, key: str) -> bool:
        """Whether the value of this key is asked for."""
        return self.wanted is None or key in self.wanted

    def cached(self, quantity: Callable[[Probe], Quantity]) -> Quantity:
        """What `quantity` gives for this probe, computed at the first request and shared between measures.

        Raises:
            Undefined: `quantity` raised it, at the first request; it is raised again at every later one.
        """
        if quantity not in self._shared:
            try:
                self._shared[quantity] = quantity(self)
            except Undefined as undefined:
                self._shared[quantity] = frameless(undefined)
        found = self._shared[quantity]
        if isinstance(found, Undefined):
            raise type(found)(found.reason)
        return found

    def forget(self) -> None:
        """Drop what measures share, and free its memory; later requests compute it again."""
        self._shared.clear()

    @cached_property
    def targets(self) -> Tensor:
        """Class indices of all samples, on the CPU; shape (examples,)."""
        return torch.cat([batch.targets for batch in self.batches]).cpu()

    @property
    def sizes(self) -> list[int]:
        """The number of samples of every batch."""
        return [len(batch.targets) for batch in self.batches]

    @property
    def inputs(self) -> list[Tensor] | None:
        """The input tensor of every batch, on its device; None where there are none, or shapes differ."""
        parts = [batch.inputs.detach() for batch in self.batches if batch.inputs is not None]
        if len(parts) != len(self.batches) or len({part.shape[1:] for part in parts}) != 1:
            return None
        return parts

    @property
    def no_inputs(self) -> str | None:
        """Why no batch has an input tensor that can be exchanged; None where the first one has."""
        return self.batches[0].no_inputs if self.batches[0].inputs is None else None

    @property
    def why_no_inputs(self) -> str:
        """Why `inputs` is None, where it is."""
        return self.no_inputs or "the inputs differ in shape"

    def require_separable(self) -> None:
        """Raise `Undefined` where samples cannot be computed alone."""
        if self.inseparable is not None:
            raise Undefined(self.inseparable)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """All modules of the network by name, without the wrappers that compilation adds."""
        return {clean_name(name): module for name, module in self.model.named_modules()}

    def forwards(self, state: State | None = None, inputs: Inputs | None = None) -> Iterator[tuple[ProbeBatch, Tensor]]:
        """One forward over all samples: every batch with its logits.

        Args:
            state: weights to use instead of the model's own.
            inputs: to use instead of the samples' own: all in one tensor, or what makes those of a batch when they are
                needed.
        """
        state = None if state is None else placed(self.model, state)
        part = self._parts(inputs)
        for place, batch in enumerate(self.batches):
            yield batch, self._logits_of(batch, part(place), state)

    def per_sample(
        self,
        rows: Callable[[ProbeBatch, Tensor], Tensor],
        state: State | None = None,
        inputs: Inputs | None = None,
    ) -> Tensor:
        """What `rows` makes of each batch and its logits, one row per sample; one forward, which the ranks share.

        The arguments are those of `forwards`. No gradients are computed.
        """
        with torch.no_grad():
            if self.ranks is None:
                found = Rows()
                for batch, logits in self.forwards(state, inputs):
                    found.add(rows(batch, logits))
                return found.on_cpu()
            part, state = self._parts(inputs), None if state is None else placed(self.model, state)

            def rows_at(place: int) -> Tensor:
                batch = self.batches[place]
                return rows(batch, self._logits_of(batch, part(place), state)).cpu()

            return self.ranks.computed(self.sizes, rows_at)

    def step(self) -> AbstractContextManager[None]:
        """Around each measure: the ranks that share the forwards take it together."""
        return nullcontext() if self.ranks is None else self.ranks.step()

    def _parts(self, inputs: Inputs | None) -> Callable[[int], Tensor | None]:
        """The inputs of each batch by its place; None for its own."""
        if inputs is None:
            return lambda place: None
        return inputs.split(self.sizes).__getitem__ if isinstance(inputs, Tensor) else inputs

    def _logits_of(self, batch: ProbeBatch, inputs: Tensor | None, state: State | None) -> Tensor:
        content = batch.content if inputs is None else batch.with_inputs(inputs)
        return self.logits_on(content, len(batch.targets), state)

    def logits_on(self, content: Any, examples: int, state: State | None = None) -> Tensor:
        """Logits of one batch content, of float32 or float64, optionally at other weights than the model's own.

        The forward gets a copy of the content, and may change it.
        """
        own = handed_out(content)
        if state is None:
            output = self.forward(self.model, own)
        else:
            output = run_at(self.model, state, lambda: self.forward(self.model, own))
        logits = logits_of(output, examples)
        return logits if logits.dtype == torch.float64 else logits.float()

    def all_logits(self, state: State | None = None, inputs: Inputs | None = None) -> Tensor:
        """The logits of `forwards`, shape (examples, classes), in float64 on the CPU; one forward, no graph."""
        return self.per_sample(lambda _, logits: logits, state, inputs).double()

    def accuracy_on(self, inputs: Inputs, targets: Tensor) -> float:
        """Accuracy with all inputs exchanged for `inputs`, labelled `targets`; one forward."""
        predicted = self.per_sample(lambda _, logits: logits.argmax(1), inputs=inputs)
        return int((predicted == targets).sum()) / len(predicted)

    @contextmanager
    def tapped(self, taps: Sequence[Tap] | None = None) -> Iterator[dict[str, Tensor]]:
        """Hooks that store, during one forward, the tensor of every tap under its layer name."""
        caught: dict[str, Tensor] = {}
        handles = []
        try:
            for tap in self.layout.taps if taps is None else taps:
                handles.append(_hook(self.modules[tap.module], tap, caught))
            yield caught
        finally:
            for handle in handles:
                handle.remove()


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of `model`, copied to the CPU, without those that a lazy module has not made yet."""
    named = [*nn.Module.named_parameters(model), *nn.Module.named_buffers(model)]  # the model's own may count calls
    return {name: value.detach().to("cpu", copy=True) for name, value in named if not is_lazy(value)}


def _hook(module: nn.Module, tap: Tap, caught: dict[str, Tensor]) -> Any:
    """Register the hook of one tap; where no gradient arrives at the tensor, the graph starts there."""
    calls = 0

    def catch(content: Any) -> Any:
        """Store the tensor at the tapped call; return what must replace the content, or None."""
        nonlocal calls
        met, calls = calls, calls + 1
        tensor = first_float_tensor(content) if met == tap.call else None
        if tensor is None:
            return None
        starts_graph = torch.is_grad_enabled() and not tensor.requires_grad
        caught[tap.layer] = tensor.detach().requires_grad_() if starts_graph else tensor
        if not (starts_graph or tap.clone):
            return None
        onward = caught[tap.layer].clone() if tap.clone else caught[tap.layer]
        return exchange(content, tensor, onward)

    if tap.side == "output":
        return module.register_forward_hook(lambda module, args, output: catch(output))
    return module.register_forward_pre_hook(lambda module, args, kwargs: catch((args, kwargs)), with_kwargs=True)
