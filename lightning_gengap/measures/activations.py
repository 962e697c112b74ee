"""What the layers of a network make of the samples: their activations, by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import Undefined
from lightning_gengap.network.functional_call import placed
from lightning_gengap.network.layers import Tap
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.network.rows import Rows

DIFFERING = "the activations differ in shape between batches; pad the samples to one length"
_WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def activations_at(
    probe: Probe, taps: Sequence[Tap], pooled: Callable[[Tensor], Tensor], state: State | None = None
) -> dict[str, Tensor]:
    """What `pooled` makes of the activations, one row per sample, by layer; one forward, on the CPU.

    A tap that the forward does not reach is left out.

    Raises:
        Undefined: they do not fit into memory, or differ in shape between batches.
    """
    rows: dict[str, Rows] = {}
    shapes: dict[str, torch.Size] = {}  # of one sample's row, by layer
    state = None if state is None else placed(probe.model, state)
    with torch.no_grad():
        for batch in probe.batches:
            with probe.tapped(taps) as caught:
                probe.logits_on(batch.content, len(batch.targets), state)
            found = {tap.layer: pooled(caught[tap.layer]) for tap in taps if tap.layer in caught}
            if batch is probe.batches[0]:
                width = sum(part[:1].numel() * part.element_size() for part in found.values())
                require_room(2 * len(probe.targets) * width, "the layers' activations of all samples")
            for layer, part in found.items():
                if part.shape[1:] != shapes.setdefault(layer, part.shape[1:]):
                    raise Undefined(f"at {layer}, {DIFFERING}")
                rows.setdefault(layer, Rows()).add(part)
    return {layer: parts.on_cpu() for layer, parts in rows.items()}


def first_weight_layer(probe: Probe) -> Tap:
    """The output of the first linear or convolutional layer that the forward calls, at its first call."""
    for met in probe.layout.called:
        if isinstance(probe.modules[met.module], _WEIGHT_LAYERS):
            return Tap("first", met.module, "output", clone=True)  # a copy: an in-place activation may follow
    raise Undefined("the forward calls no linear or convolutional layer")
