"""The weights that are trained, and the logits as a function of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.derivatives.jacobian import Weights, differentiable_attention, leaves_of
from lightning_gengap.derivatives.memory import kept_by, require_room
from lightning_gengap.errors import Undefined
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.nested import rows_of


def trained(probe: Probe) -> dict[str, Tensor]:
    """The parameters that require gradients, by name; a shared one has one name.

    Raises:
        Undefined: there are none, or one is complex.
    """
    weights = {name: value.detach() for name, value in probe.model.named_parameters() if value.requires_grad}
    if not weights:
        raise Undefined("no parameter requires a gradient")
    refuse_complex(weights)
    return weights


def refuse_complex(weights: Mapping[str, Tensor]) -> None:
    """Raise `Undefined`, with its name, for a complex parameter: no product here conjugates it."""
    name = next((name for name, value in weights.items() if value.is_complex()), None)
    if name is not None:
        raise Undefined(f"the parameter {name!r} is complex")


def logits_at(probe: Probe, names: Sequence[str], content: Any, examples: int, weights: Weights) -> Tensor:
    """The logits of one batch content at other values of the named parameters; shape (examples, classes)."""
    return probe.logits_on(content, examples, dict(zip(names, weights, strict=True)))


def require_gradients(probe: Probe) -> None:
    """Raise `Undefined` where no gradient of the logits reaches a trained parameter: all would be zero.

    Cost: a forward and a backward of one sample, once per probe.
    """
    if not probe.cached(_reached):
        raise Undefined("no gradient of the logits reaches a trained parameter")


def _reached(probe: Probe) -> bool:
    """Whether a gradient of one sample's logits reaches a trained parameter; True where it fails in another way."""
    weights, batch = trained(probe), probe.batches[0]
    leaves = leaves_of(tuple(weights.values()))
    try:
        alone = rows_of(batch.content, torch.tensor([0]), len(batch.targets))
        with differentiable_attention():
            logits = logits_at(probe, list(weights), alone, 1, leaves)
            if not logits.requires_grad:
                return False
            found = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
    except Exception:
        return True  # whoever needs the gradients says what is amiss
    return any(part is not None for part in found)


def require_room_for_graph(probe: Probe, samples: int) -> None:
    """Raise `Undefined` where a graph of so many samples does not fit into what is left of the CPU's memory.

    A device says itself when it is full. Cost: two forwards of one and two samples, once per probe.
    """
    if all(weight.device.type == "cpu" for weight in probe.model.parameters()):
        require_room(samples * probe.cached(kept_for_each_sample), f"the graph of {samples} samples")


def kept_for_each_sample(probe: Probe) -> int:
    """Bytes that one more sample adds to the graph of the logits; 0 where there is no graph."""
    batch = probe.batches[0]
    most = min(2, len(batch.targets))

    def forward(count: int) -> Tensor:
        weights = trained(probe)
        content = rows_of(batch.content, torch.arange(count), len(batch.targets))
        return logits_at(probe, list(weights), content, count, leaves_of(tuple(weights.values())))

    try:
        with differentiable_attention():
            kept = [kept_by(partial(forward, count)) for count in range(1, most + 1)]
    except Exception:
        return 0  # whoever needs the graph says what is amiss
    return max(kept[-1] - kept[0], 0) if most > 1 else kept[0]
