"""A function of a module run at other weights, and the module left as it was whatever its parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


def run_at(module: nn.Module, state: Mapping[str, Tensor], run: Callable[[], Result]) -> Result:
    """What `run` gives while the named parameters and buffers of `module` are exchanged for `state`.

    A shared tensor is exchanged at every place, once. `torch.func.functional_call` alone would exchange the tensors of
    a module that is registered under two names twice: it would take the first exchange for the original, and restore
    that. Names that the module does not have are ignored. Tensors go to the device of those that they stand for.
    """
    places: dict[int, list[str]] = {}  # by identity of the tensor
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, str]] = set()
    for prefix, part in module.named_modules(remove_duplicate=False):
        for own, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None:
                continue
            name = f"{prefix}.{own}" if prefix else own
            tensors[name] = tensor
            if (id(part), own) not in seen:
                seen.add((id(part), own))
                places.setdefault(id(tensor), []).append(name)
    everywhere = {
        f"module.{place}": value.to(tensors[name].device)
        for name, value in state.items()
        if name in tensors
        for place in places[id(tensors[name])]
    }
    found: Result = torch.func.functional_call(_Around(module, run), everywhere, (), tie_weights=False)
    return found


def placed(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with every tensor on the device of the one that it stands for: moved once, not at every call."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    devices = {name: tensor.device for name, tensor in named}
    return {name: value.to(devices.get(name, value.device)) for name, value in state.items()}


class _Around(nn.Module):
    """A function as the forward of a module around the one that it uses: only forwards run at other weights."""

    def __init__(self, module: nn.Module, run: Callable[[], object]) -> None:
        super().__init__()
        self.module = module
        self._run = run

    def forward(self) -> object:
        return self._run()
