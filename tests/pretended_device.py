"""A pretended device: tensors that are said to lie on it, and are watched, while they are computed with on the CPU.

It behaves as the GPU of a Mac does, the strictest device: it has no float64, and refuses operations on tensors of two
devices. It counts what makes the CPU wait for a real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CPU = torch.device("cpu")
_GENERATOR = torch.Generator
_ATEN = torch.ops.aten
_WIDE = (torch.float64, torch.complex128)
# Each waits for its result: its value, or its shape, which depends on the numbers.
_WAITING = {
    _ATEN._local_scalar_dense,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN._unique2,
    _ATEN.unique_dim,
    _ATEN.unique_consecutive,
    _ATEN.bincount,
    _ATEN.repeat_interleave,
    _ATEN._linalg_eigh,
    _ATEN._linalg_svd,
    _ATEN.linalg_cholesky_ex,
    _ATEN._linalg_solve_ex,
}
_MAY_MIX = {_ATEN.copy_, _ATEN.index, _ATEN.index_put_, _ATEN._index_put_impl_, _ATEN.index_put}  # with the CPU


class _AnywhereGenerator(_GENERATOR):
    """A generator of random numbers for any device."""

    def __new__(cls, device: Any = None) -> Any:
        return super().__new__(cls, "cpu")


class _Watched(TorchDispatchMode):
    """Sees every operation that is computed."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in given if self.device.holds(tensor)]
        if self.device.moves or not here:
            found = func(*args, **kwargs)
            if not given and not self.device.asked:
                self.device.leave_open(found)
            return found
        operation = func.overloadpacket
        others = [tensor for tensor in given if tensor.ndim and not self.device.holds(tensor)]
        others = [tensor for tensor in others if not self.device.may_hold(tensor)]
        if others and operation not in _MAY_MIX:
            raise RuntimeError(f"{func}: tensors of two devices")
        if operation in _WAITING:
            self.device.waits(str(operation))
        if operation in (_ATEN.index, _ATEN.index_put_, _ATEN.index_put) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        ):
            self.device.waits("a mask as an index")
        leaves_the_device = operation is _ATEN.copy_ and not self.device.holds(args[0])
        if leaves_the_device:
            self.device.waits("copy_ to the CPU")
        found = func(*args, **kwargs)
        for tensor in () if leaves_the_device else tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.device.check(tensor.dtype, str(func))
                self.device.take(tensor)
        return found


class PretendedDevice(TorchFunctionMode):
    """A device while it is entered: `tensor.to(device.place)` moves there, and `tensor.device` is true to that.

    Attributes:
        place: its name for torch.
        synchronisations: how often the CPU waited, by what it waited for.
        copied: how many tensors were moved to it.
    """

    def __init__(self, kind: str = "mps") -> None:
        super().__init__()
        self.place = torch.device(kind)
        self.synchronisations: Counter[str] = Counter()
        self.copied = 0
        self.moves = False  # a tensor, between devices
        self.asked = False  # for a new tensor, by Python
        self._held: set[StorageWeakRef] = set()
        self._open: set[StorageWeakRef] = set()
        self._watched = _Watched(self)

    def __enter__(self) -> PretendedDevice:
        super().__enter__()
        self._watched.__enter__()
        torch.Generator = _AnywhereGenerator  # type: ignore[misc]
        return self

    def __exit__(self, *error: Any) -> None:
        torch.Generator = _GENERATOR  # type: ignore[misc]
        self._watched.__exit__(*error)
        super().__exit__(*error)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """The synchronisations within."""
        before, within = Counter(self.synchronisations), Counter[str]()
        yield within
        within.update(self.synchronisations - before)

    def waits(self, reason: str) -> None:
        self.synchronisations[reason] += 1

    def check(self, dtype: torch.dtype | None, where: str) -> None:
        if dtype in _WIDE:
            raise TypeError(f"{where}: the device has no float64")

    def holds(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and StorageWeakRef(storage) in self._held

    def take(self, tensor: Tensor) -> None:
        """Let the tensor, and all that share its memory, lie on the device."""
        storage = _storage(tensor)
        if storage is not None:
            self._held.add(StorageWeakRef(storage))

    def leave_open(self, found: Any) -> None:
        """What an operation made inside, with the device of its arguments: it is not known which."""
        for tensor in tree_leaves(found):
            storage = _storage(tensor) if isinstance(tensor, Tensor) else None
            if storage is not None:
                self._open.add(StorageWeakRef(storage))

    def may_hold(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is None or StorageWeakRef(storage) in self._open

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        special = _SPECIAL.get(func)
        if special is not None and args and isinstance(args[0], Tensor):
            return special(self, *args, **kwargs)
        traced = isinstance(func, torch._ops.OpOverload)  # run again, with the device of the CPU written into it
        given = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        before, self.asked = self.asked, not given and not traced
        try:
            return self._run(func, args, kwargs)
        finally:
            self.asked = before

    def _run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        wanted = torch.device(kwargs.pop("device"))  # of a factory
        if wanted.type != self.place.type:
            return func(*args, device=wanted, **kwargs)
        self.check(kwargs.get("dtype"), str(func))
        found = func(*args, device="cpu", **kwargs)
        self.check(found.dtype, str(func))
        self.copied += func in (torch.tensor, torch.as_tensor)
        self.take(found)
        return found

    def _device_of(self, tensor: Tensor) -> torch.device:
        return self.place if self.holds(tensor) else tensor.device

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, others = _destination(self, args, kwargs)
        copy = others.pop("copy", False)
        held = self.holds(tensor)
        if device is None or (device.type == self.place.type) == held:
            self.check(dtype if held else None, "to")
            return tensor.to(dtype or tensor.dtype, copy=copy)
        self.check(dtype or tensor.dtype, "to")  # moved and widened in one step is refused too
        self.moves = True
        try:
            moved = tensor.to(dtype or tensor.dtype).clone()
        finally:
            self.moves = False
        if held:
            self.waits("to the CPU")
        else:
            self.copied += 1
            self.take(moved)
        return moved

    def _cpu(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._to(tensor, _CPU)

    def _list(self, tensor: Tensor) -> Any:
        if self.holds(tensor):
            self.waits("tolist")
        return tensor.tolist()

    def _numpy(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.holds(tensor):
            raise TypeError("can't convert a tensor of this device to numpy; use .cpu() first")
        return tensor.numpy(*args, **kwargs)

    def _copied(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        found = tensor.__deepcopy__(memo)
        if self.holds(tensor):
            self.take(found)
        return found


_SPECIAL: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: PretendedDevice._device_of,  # type: ignore[attr-defined]
    Tensor.is_mps.__get__: lambda device, tensor: device.holds(tensor),  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device, tensor: not device.holds(tensor),  # type: ignore[attr-defined]
    Tensor.to: PretendedDevice._to,
    Tensor.cpu: PretendedDevice._cpu,
    Tensor.tolist: PretendedDevice._list,
    Tensor.numpy: PretendedDevice._numpy,
    Tensor.__array__: PretendedDevice._numpy,
    Tensor.__deepcopy__: PretendedDevice._copied,
}


def _destination(
    device: PretendedDevice, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[torch.device | None, torch.dtype | None, dict[str, Any]]:
    """What `Tensor.to` was asked for: device, type, and the rest."""
    wanted, dtype, others = kwargs.pop("device", None), kwargs.pop("dtype", None), dict(kwargs)
    other = others.pop("other", None)
    for name, value in zip(("", "", "non_blocking", "copy"), (a for a in args), strict=False):
        if isinstance(value, Tensor):
            other = value
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, str | torch.device):
            wanted = value
        elif isinstance(value, bool) and name:
            others[name] = value
    if other is not None:
        wanted, dtype = device._device_of(other), other.dtype
    return (None if wanted is None else torch.device(wanted)), dtype, others


def _storage(tensor: Tensor) -> Any:
    """The memory of the tensor; None where it has none of its own."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.layout != torch.strided:
        return None
    return tensor.untyped_storage()
