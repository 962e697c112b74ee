"""Whether a validation runs on the weights that are trained, and not on averaged ones that stand in for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_ENTRIES = 64  # of each parameter; an average differs from the present weights in nearly all


@dataclass
class ValidatedWeights:
    """Looks at some entries of the weights before, within and after a validation.

    A callback that averages weights puts its own in place while a validation runs, in a hook before or after ours.
    """

    _seen: list[Tensor] = field(default_factory=list)

    def look(self, module: nn.Module) -> None:
        """Remember some entries of every floating parameter, without waiting for the device."""
        self._seen.append(_entries(module))

    def differ(self) -> bool:
        """Whether they were not the same at every look."""
        first, *others = self._seen or [torch.empty(0)]
        return not all(torch.equal(first, other) for other in others)


def _entries(module: nn.Module) -> Tensor:
    kept = []
    for _, parameter in nn.Module.named_parameters(module):  # the module's own method may count its calls
        if nn.parameter.is_lazy(parameter) or parameter.layout != torch.strided or not parameter.is_floating_point():
            continue
        flat = parameter.detach().reshape(-1)
        kept.append(flat[:: max(1, len(flat) // _ENTRIES)][:_ENTRIES])
    of_one_device = [part.float() for part in kept if part.device == kept[0].device]
    return torch.cat(of_one_device) if of_one_device else torch.empty(0)
