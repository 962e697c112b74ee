"""What one training step calls: the outputs that may be its logits, and the calls that made them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn

from lightning_gengap.monitor.step_hooks import hook_into
from lightning_gengap.network.trace import version_of
from lightning_gengap.samples.nested import flat_tensors

PREPARED = "prepared(batch)"  # stands for a tensor that is not the batch's
_MOST_CALLS = 24


@dataclass(frozen=True)
class Streams:
    """The global random streams at one moment."""

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def now(cls) -> Streams:
        """Those of this moment."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def equals(self, other: Streams) -> bool:
        """Whether both are the same."""
        numpy = all(np.array_equal(one, another) for one, another in zip(self.numpy, other.numpy, strict=True))
        tensors = zip((self.cpu, *self.cuda), (other.cpu, *other.cuda), strict=False)
        return numpy and self.python == other.python and all(torch.equal(one, another) for one, another in tensors)

    def go_on(self) -> None:
        """Let the streams go on from here."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


@dataclass(frozen=True)
class Called:
    """A call of a module that no other module made.

    Attributes:
        written: as code that reads a batch, such as `module.net(batch[0])`, with `PREPARED` for tensors that are not
            the batch's.
        known: whether everything in it is the batch's.
        streams: the random streams before it.
        outputs: how many outputs were recorded when it ended.
        prepared: a copy of the one tensor in it that is not the batch's; None where there is none, or another number.
    """

    written: str
    known: bool
    streams: Streams
    outputs: int
    prepared: Tensor | None = None


class Returned(NamedTuple):
    """A copy of what a module returned, and whether no other module had called it."""

    module: str
    tensor: Tensor
    outermost: bool


class _Known(NamedTuple):
    """A tensor that was met: the code that makes it, its version then, and whether the code says all."""

    written: str
    tensor: Tensor
    version: int
    whole: bool


@dataclass
class StepRecording:
    """Records, by temporary hooks that return nothing, what the modules of a network return in one step.

    Attributes:
        outputs: the float outputs of shape (any, classes), in order.
        calls: the outermost calls.
        waits: whether one of the calls has waited for other processes: nobody may then repeat it alone.
    """

    classes: int
    only_trained: bool = True
    outputs: list[Returned] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    waits: bool = False
    _exchanges: int = 0
    _written: dict[int, _Known] = field(default_factory=dict)  # by identity
    _open: list[tuple[str, bool, Tensor | None, Streams]] = field(default_factory=list)
    _depth: int = 0
    _batch: Any = None
    _in_step: bool = False
    _handles: list[Any] = field(default_factory=list)

    def begin(self, model: nn.Module, batch: Any = None) -> None:
        """Record from now on. Tensors of the `batch` are known by where they stand in it."""
        self._batch = batch
        self._note("batch", batch)
        self._handles = hook_into(dict(model.named_modules()), self._leave, self._fail, self._enter)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._batch = [], None
        self._written.clear()

    def _fail(self) -> None:
        """Something that was met cannot be recorded: nothing is known of this step then."""
        self.close()
        self.calls, self.outputs = [], []

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._depth == 0 and not name and self._batch is not None and args and args[0] is self._batch:
            redirected = getattr(vars(module).get("forward"), "__name__", "") == "wrapped_forward"
            if len(args) > 1 or redirected:
                self._in_step = True  # in a distributed run the whole training step is a call of the module
                return
        if self._depth == 0 and len(self.calls) < _MOST_CALLS:
            self._open = [(*self._call(name, args, kwargs), Streams.now())]
            self._exchanges = exchanges()
        self._depth += 1

    def _leave(self, name: str, module: nn.Module, output: Any) -> None:
        if not self._handles:
            return
        if self._depth == 0 and self._in_step:
            self._in_step = False
            return
        self._depth -= 1
        for tensor in outputs_in(output, self.classes):
            if tensor.requires_grad or not self.only_trained:
                self.outputs.append(Returned(name, tensor.detach().clone(), self._depth == 0))
        if self._depth == 0 and self._open:
            written, known, prepared, streams = self._open.pop()
            self.waits = self.waits or exchanges() != self._exchanges
            self.calls.append(Called(written, known, streams, len(self.outputs), prepared))
            if isinstance(output, Tensor):
                self._note(written, output, known)

    def _note(self, written: str, content: Any, whole: bool = True) -> None:
        """Know the tensors of `content` by the code that reads them."""
        if isinstance(content, Tensor):
            self._written[id(content)] = _Known(written, content, version_of(content), whole)
        elif isinstance(content, Mapping):
            for key, part in content.items():
                self._note(f"{written}[{key!r}]", part)
        elif isinstance(content, list | tuple):
            for position, part in enumerate(content):
                self._note(f"{written}[{position}]", part)
        else:
            for name, part in getattr(content, "__dict__", {}).items():
                if isinstance(part, Tensor):
                    self._note(f"{written}.{name}", part)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, bool, Tensor | None]:
        """A call as code, whether everything in it is known, and a copy of the one tensor that is not."""
        parts = [("", *self._read(part)) for part in args]
        parts += [(f"{key}=", *self._read(part)) for key, part in kwargs.items()]
        target = f"module.{name}" if name else "module"
        written = ", ".join(f"{key}{code}" for key, code, _ in parts)
        strangers = [each for each in flat_tensors((args, dict(kwargs))) if not self._read_tensor(each)[1]]
        prepared = strangers[0].detach().clone() if len(strangers) == 1 else None
        return f"{target}({written})", all(known for *_, known in parts), prepared

    def _read(self, part: Any) -> tuple[str, bool]:
        """One argument as code, and whether it is known."""
        if isinstance(part, Tensor):
            return self._read_tensor(part)
        if part is None or isinstance(part, bool | int | float | str):
            return repr(part), True
        if isinstance(part, Mapping):
            if self._is_batch(part):
                return "batch", True
            read = {key: self._read(value) for key, value in part.items()}
            return "{" + ", ".join(f"{k!r}: {code}" for k, (code, _) in read.items()) + "}", _all(read.values())
        if isinstance(part, list | tuple):
            each = [self._read(value) for value in part]
            return "(" + ", ".join(code for code, _ in each) + ("," if len(each) == 1 else "") + ")", _all(each)
        return f"<{type(part).__name__}>", False

    def _is_batch(self, part: Mapping[Any, Any]) -> bool:
        """Whether a mapping holds what the batch holds, under the same keys."""
        held = {f"batch[{key!r}]": value for key, value in part.items() if isinstance(value, Tensor)}
        keys = {known.written for known in self._written.values() if known.written in held}
        return bool(held) and keys == held.keys() and all(self._read_tensor(each)[1] for each in held.values())

    def _read_tensor(self, tensor: Tensor) -> tuple[str, bool]:
        found = self._written.get(id(tensor))
        if found is not None and version_of(tensor) == found.version:
            return found.written, found.whole
        for known in self._written.values():
            if version_of(known.tensor) == known.version and known.tensor is not tensor:
                made = _made_of(tensor, known.tensor)
                if made is not None:
                    return f"{known.written}{made}", known.whole
        return PREPARED, False


def exchanges() -> int:
    """How often the processes of torch's default group have exchanged something; 0 where there is one process only."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0
    group: Any = distributed.group.WORLD
    return int(group._get_sequence_number_for_group())


def outputs_in(output: Any, classes: int) -> list[Tensor]:
    """The float tensors of shape (any, classes) in what a module returned."""
    found = flat_tensors(output)
    if not found and isinstance(getattr(output, "logits", None), Tensor):
        found = [output.logits]
    return [each for each in found if each.ndim == 2 and each.shape[1] == classes and each.is_floating_point()]


def _made_of(tensor: Tensor, known: Tensor) -> str | None:
    """The method that makes one tensor of another: a reshape or another type; None for anything else."""
    plain = (each.layout == torch.strided and not each.is_nested and each.numel() for each in (tensor, known))
    if not all(plain) or tensor.numel() != known.numel() or tensor.device != known.device:
        return None
    if tensor.data_ptr() == known.data_ptr() and tensor.is_contiguous() and known.is_contiguous():
        return f".reshape({', '.join(map(str, (-1, *tensor.shape[1:])))})"
    if tensor.shape == known.shape and tensor.dtype != known.dtype and torch.equal(tensor, known.to(tensor.dtype)):
        return f".to({tensor.dtype})"
    return None


def _all(read: Iterable[tuple[str, bool]]) -> bool:
    return all(known for _, known in read)
