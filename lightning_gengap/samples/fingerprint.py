"""A fingerprint of the monitored samples: whether values measured on them once may be used again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.samples.nested import flat_tensors
from lightning_gengap.samples.reader import Samples

_PROJECTIONS = 4
_MOST_NUMBERS = 1 << 14  # that are read of one tensor of a batch, evenly spread
_TOLERANCE = 1e-2  # of the length of the inputs: another precision or device changes them by less


@dataclass(frozen=True)
class Fingerprint:
    """What tells samples from others, in primitives.

    Attributes:
        train_samples: the number of distinct samples that training draws from; None if unknown.
        count: the number of monitored samples.
        indices: a hash of their indices, in order; empty where they have none.
        targets: a hash of their class indices, in order.
        shapes: a hash of the types of their tensors, and of the shapes of one sample.
        inputs: random projections of their tensors and the logarithm of their length; empty for augmented samples,
            which never read alike.

    Example:
        >>> from lightning_gengap.samples.batches import read_batch
        >>> inputs, targets = torch.eye(4), torch.tensor([0, 1, 0, 1])
        >>> one = Fingerprint.of(Samples((read_batch((inputs, targets)),), 4, augmented=False))
        >>> other = Fingerprint.of(Samples((read_batch((inputs, 1 - targets)),), 8, augmented=False))
        >>> one.differences(other)
        ['the number of training samples (8 instead of 4)', 'labels']
    """

    train_samples: int | None
    count: int
    indices: str
    targets: str
    shapes: str
    inputs: list[float]

    @classmethod
    def of(cls, samples: Samples, indices: Sequence[int] = ()) -> Fingerprint:
        """The fingerprint of these samples, drawn at these indices. It reads 16,384 numbers a tensor at most."""
        targets = torch.cat([batch.targets.cpu() for batch in samples.batches])
        first = flat_tensors(samples.batches[0].content)
        shapes = [(_kind(tensor), tuple(tensor.shape[1:])) for tensor in first]
        return cls(
            train_samples=samples.train_samples,
            count=len(targets),
            indices=_hash(torch.tensor(indices).numpy().tobytes()) if indices else "",
            targets=_hash(targets.numpy().tobytes()),
            shapes=_hash(repr(shapes).encode()),
            inputs=[] if samples.augmented else projected(t for b in samples.batches for t in flat_tensors(b.content)),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """What differs in `other`, in words; nothing where these are the same samples as far as can be told."""
        found = []
        if self.train_samples != other.train_samples:
            found.append(f"the number of training samples ({other.train_samples} instead of {self.train_samples})")
        if self.count != other.count:
            found.append(f"the number of monitored samples ({other.count} instead of {self.count})")
        elif self.targets != other.targets:
            found.append("labels")
        elif self.indices != other.indices:
            found.append("the indices of the monitored samples")
        if self.shapes != other.shapes:
            found.append("the shape of a sample")
        elif not found and self.inputs and other.inputs and differ(self.inputs, other.inputs):
            found.append("inputs")
        return found


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two results of `projected` belong to other numbers, beyond what a precision or a device changes."""
    return len(one) != len(other) or any(abs(a - b) > _TOLERANCE for a, b in zip(one, other, strict=True))


def projected(tensors: Iterable[Tensor]) -> list[float]:
    """Fixed random projections of the numbers in all tensors, by length, and the mean logarithm of that."""
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(_PROJECTIONS, dtype=torch.float64)
    count, scales = 0, [0.0]
    for tensor in tensors:
        numbers = _numbers(tensor)
        scale = max(float(numbers.square().mean().sqrt()), 1e-30) if len(numbers) else 1.0
        signs = torch.randint(2, (_PROJECTIONS, len(numbers)), generator=generator).double() * 2 - 1
        sums += signs @ numbers / scale  # token ids of thousands must not drown a mask of ones
        count += len(numbers)
        scales.append(math.log(scale))
    return [*(sums / max(count, 1) ** 0.5).tolist(), sum(scales) / max(len(scales) - 1, 1)]


def _numbers(tensor: Tensor) -> Tensor:
    """Evenly spread numbers of the tensor; float64, on the CPU."""
    flat = _values(tensor.detach()).reshape(-1)
    chosen = flat[:: 1 + len(flat) // _MOST_NUMBERS].cpu()
    numbers = torch.view_as_real(chosen).reshape(-1) if chosen.is_complex() else chosen
    return torch.nan_to_num(numbers.double(), 0.0, 0.0, 0.0)


def _values(tensor: Tensor) -> Tensor:
    """The stored numbers of a tensor of any layout."""
    if tensor.layout == torch.strided:
        return tensor.dequantize() if tensor.is_quantized else tensor
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor.values()


def _kind(tensor: Tensor) -> str:
    """What the precision does not change of the type."""
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
