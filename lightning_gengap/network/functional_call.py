"""A module called at other weights, and left as it was whatever its parts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def call_with(module: nn.Module, state: Mapping[str, Tensor], *args: Any) -> Any:
    """`module(*args)` with the named parameters and buffers exchanged for `state` during the call.

    A shared tensor is exchanged at every place, once. `torch.func.functional_call` alone would exchange the tensors of
    a module that is registered under two names twice: it would take the first exchange for the original, and restore
    that. Names that the module does not have are ignored.
    """
    names: dict[int, list[str]] = {}  # of all places, by identity of the tensor
    tensors: dict[str, int] = {}
    seen: set[tuple[int, str]] = set()
    for prefix, part in module.named_modules(remove_duplicate=False):
        for own, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None:
                continue
            name = f"{prefix}.{own}" if prefix else own
            tensors[name] = id(tensor)
            if (id(part), own) not in seen:
                seen.add((id(part), own))
                names.setdefault(id(tensor), []).append(name)
    everywhere = {name: value for given, value in state.items() for name in names.get(tensors.get(given, 0), ())}
    return torch.func.functional_call(module, everywhere, args, tie_weights=False)
