"""On what the values of one training were measured, so that they are used for nothing else. No Lightning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_gengap.measurer import Measurer
from lightning_gengap.network.probe import State
from lightning_gengap.samples.fingerprint import Fingerprint, differ, projected
from lightning_gengap.samples.trainable_indices import Trainable

_MOST_NUMBERS = 1 << 12  # that are read of one parameter


@dataclass(frozen=True)
class Origin:
    """What the values of a training belong to, in primitives.

    Attributes:
        samples: the fingerprint of the monitored samples; of the first batch alone while a stream is being copied.
        head: that of their first batch.
        seed: of the draw.
        asked: how many samples the monitor was asked for.
        classes: the number of logits.
        layers: the watched layers.
        logits: projections of the first batch's logits at the initial weights; empty where these are unknown.
        keys: the only keys that were asked for; None for all.
    """

    samples: Fingerprint
    head: Fingerprint
    seed: int
    asked: int
    classes: int
    layers: list[str]
    logits: list[float]
    keys: list[str] | None

    @classmethod
    def of(cls, measurer: Measurer, pool: Trainable | None, drawn: Sequence[int], asked: int) -> Origin:
        """What this measurer watches, without the logits.

        `pool` and `drawn` are the indices that its samples were drawn from, and those drawn.
        """
        samples = replace(measurer.samples, train_samples=None if pool is None else len(pool.indices))
        first = replace(samples, batches=samples.batches[:1])
        return cls(
            samples=Fingerprint.of(samples, drawn),
            head=Fingerprint.of(first, drawn[: len(first)]),
            seed=measurer.seed,
            asked=asked,
            classes=measurer.classes,
            layers=[f"{tap.layer} = {tap}" for tap in measurer.layout.taps],
            logits=[],
            keys=None if measurer.wanted is None else sorted(measurer.wanted),
        )

    def with_logits(self, measurer: Measurer, model: nn.Module) -> Origin:
        """The same with the logits, which cost a forward of one batch."""
        logits = measurer.initial_logits(model)
        return replace(self, logits=[] if logits is None else projected([logits]))

    def drawn_alike(self, seed: int, asked: int) -> bool:
        """Whether the same data would give the same samples."""
        return (self.seed, self.asked) == (seed, asked)

    def same_kind(self, new: Origin) -> bool:
        """Whether the samples may come from the same source, in another order."""
        return self.classes == new.classes and self.head.shapes == new.head.shapes

    def other_data(self, new: Origin, head: Fingerprint | None = None) -> list[str]:
        """What differs in the data of `new`, in words. `head` is their first batch by the draw of this origin."""
        found = self.head.differences(new.head if head is None else head)
        if self.classes != new.classes:
            found.append(f"the number of classes ({new.classes} instead of {self.classes})")
        if not found and self.drawn_alike(new.seed, new.asked) and self.samples.count == new.samples.count:
            found = self.samples.differences(new.samples)
        return found

    def other_measuring(self, new: Origin) -> list[str]:
        """What differs in how the same data are measured, in words."""
        found = [] if self.drawn_alike(new.seed, new.asked) else ["other samples are drawn"]
        if self.layers != new.layers:
            found.append("other layers are watched")
        if not found and self.logits and new.logits and differ(self.logits, new.logits):
            found.append("the model or forward= gives other logits at the initial weights")
        return found

    def lacks_keys(self, new: Origin) -> bool:
        """Whether `new` asks for keys that were left out."""
        return self.keys is not None and (new.keys is None or not set(new.keys) <= set(self.keys))


def weights_digest(model: nn.Module) -> str:
    """A hash of evenly spread numbers of every parameter and buffer, 4,096 of each at most."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _named_tensors(model):
        digest.update(f"{name} {_shape(tensor)} {tensor.dtype}".encode())
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested or is_lazy(tensor))
        if plain and tensor.device.type != "meta":
            flat = tensor.detach().reshape(-1)
            chosen = flat[:: 1 + len(flat) // _MOST_NUMBERS].cpu().contiguous()
            digest.update(chosen.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fitting(state: Any, model: nn.Module) -> State | None:
    """`state` if it holds the parameters and buffers of this model, else None."""
    named = {name: _shape(tensor) for name, tensor in _named_tensors(model)}
    if not isinstance(state, Mapping) or state.keys() != named.keys():
        return None
    fits = all(isinstance(tensor, torch.Tensor) and _shape(tensor) == named[name] for name, tensor in state.items())
    return state if fits else None


def _named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters and buffers, by the methods of torch: those of a model may count how often they are called."""
    return [*nn.Module.named_parameters(model), *nn.Module.named_buffers(model)]


def _shape(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The shape of a tensor; None for nested and lazy ones, which may have none."""
    return None if tensor.is_nested or is_lazy(tensor) else tuple(tensor.shape)
