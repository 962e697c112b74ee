"""Whether several ranks can share the forwards of a probe: they measure one network on the same samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.samples.nested import flat_tensors

MOST_NUMBERS = 1 << 22  # of buffers, that are brought from rank 0


def shared(probe: Probe, ranks: Ranks | None, request: Any, augmented: bool = False) -> Probe:
    """The probe, shared by the ranks where their networks, samples and requests are the same; else as it is.

    Buffers may differ: running means do under DDP, where each rank has its own. Those of rank 0 are then written to all
    networks. Use it inside `undisturbed(probe.model)`, which takes that back.

    Args:
        probe: of this rank.
        ranks: all of which call this; None for one process.
        request: what is measured, as its `repr` tells.
        augmented: whether reading a sample twice gives two copies of it, any of which will do.

    Raises:
        AnotherRankFailed: another rank does not measure.
    """
    if ranks is None:
        return probe
    buffers = list(probe.model.buffers())
    with ranks.step():
        try:
            digest, norms = _digest(probe, request, augmented), _norms(buffers)
        except Exception:  # tensors without a norm, such as quantized ones: no other rank has the same
            digest, norms = torch.tensor([-1 - ranks.rank]), torch.zeros(0)
        if not ranks.agree(digest):
            return probe
        if not ranks.agree(norms):
            if sum(buffer.numel() for buffer in buffers) > MOST_NUMBERS:
                return probe
            _take_over(buffers, ranks)
    return replace(probe, ranks=ranks)


def _digest(probe: Probe, request: Any, augmented: bool) -> Tensor:
    """Of what must be the same on all ranks, shape (16,)."""
    shapes = [None if batch.inputs is None else tuple(batch.inputs.shape) for batch in probe.batches]
    kinds = [(tuple(buffer.shape), buffer.dtype, buffer.layout) for buffer in probe.model.buffers()]
    same = (request, shapes, [len(batch.targets) for batch in probe.batches], kinds, probe.seed, probe.inseparable)
    digest = hashlib.blake2b(repr(same).encode(), digest_size=16)
    digest.update(probe.targets.numpy().tobytes())
    contents = () if augmented else flat_tensors([batch.content for batch in probe.batches])
    for norms in (_norms(contents), _norms(probe.model.parameters())):
        digest.update(norms.numpy().tobytes())
    return torch.tensor(list(digest.digest()))


def _norms(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of each tensor, float32, on the CPU; they are read from the device at once."""
    norms = [
        torch.linalg.vector_norm(tensor if tensor.is_complex() else tensor.float())
        for tensor in (tensor.detach() for tensor in tensors)
    ]
    return torch.stack([norm.to(norms[0].device).float() for norm in norms]).cpu() if norms else torch.zeros(0)


@torch.no_grad()
def _take_over(buffers: Iterable[Tensor], ranks: Ranks) -> None:
    """Write the buffers of rank 0 to those of this rank."""
    for buffer in buffers:
        own = buffer.detach().contiguous().reshape(-1).view(torch.uint8)
        first, *_ = ranks.gather(own if ranks.rank == 0 else own[:0])
        if ranks.rank != 0:
            buffer.copy_(first.clone().view(buffer.dtype).reshape(buffer.shape))
