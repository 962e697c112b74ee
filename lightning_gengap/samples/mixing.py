"""Whether a function on batches mixes their samples, as MixUp does, and how plain samples are then collated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_gengap.errors import BatchError, one_line
from lightning_gengap.samples.nested import flat_tensors, rows_of

EXAMPLES = 8
_TIMES = 4  # mixing is often left out at random

Collate = Callable[[Any], Any]


def mixes(apply: Callable[[list[int]], Any], examples: int, plain: Any = None) -> bool:
    """Whether what `apply` makes of a sample depends on the others, or its class becomes shares of classes.

    A sample that comes out differently each time when it is alone is augmented, and tells nothing.

    Args:
        apply: from the positions of samples to their batch.
        examples: how many positions there are.
        plain: the batch before `apply`, where there is one.
    """
    try:
        wholes = [apply(list(range(examples))) for _ in range(_TIMES)]
        if plain is not None and any(_has_shares(whole, plain, examples) for whole in wholes):
            return True
        for position in range(examples):
            alone, again = apply([position]), apply([position])
            if _close(alone, again):
                row = torch.tensor([position])
                if not all(_close(rows_of(whole, row, examples), alone) for whole in wholes):
                    return True
    except Exception:  # not made for so few samples: nothing can be told
        return False
    return False


def plain_collate(collate: Collate, samples: Sequence[Any]) -> Collate:
    """`collate`, or torch's own where that mixes these samples.

    Raises:
        BatchError: it mixes, and torch's own cannot stack them.
    """
    if collate is default_collate:
        return collate
    chosen = list(samples[:EXAMPLES])
    try:
        plain, failure = default_collate(chosen), None
    except Exception as error:  # samples of unequal size, of kinds that torch does not know
        plain, failure = None, error
    if not mixes(lambda positions: collate([copy.deepcopy(chosen[i]) for i in positions]), len(chosen), plain):
        return collate
    if failure is not None:
        raise BatchError(
            "probe_data",
            got=f"samples that the loader's collate_fn mixes, and torch's default_collate refuses: {one_line(failure)}",
            expected="samples that can be collated without mixing",
            remedy="Pass probe_data=DataLoader(<the same data set>, collate_fn=<one that does not mix>).",
        ) from failure
    return default_collate


def examples_in(batch: Any) -> int:
    """The number of samples in a batch: the length of its first tensor; 0 without one."""
    return next((len(tensor) for tensor in flat_tensors(batch) if tensor.ndim), 0)


def _has_shares(whole: Any, plain: Any, examples: int) -> bool:
    """Whether class indices in the plain batch are rows that sum to one in the other."""

    def of_kind(batch: Any, dimensions: int, floats: bool) -> list[Tensor]:
        tensors = (t for t in flat_tensors(batch) if t.ndim == dimensions and len(t) == examples)
        return [tensor for tensor in tensors if tensor.is_floating_point() == floats]

    if len(of_kind(whole, 1, False)) >= len(of_kind(plain, 1, False)):
        return False
    shares = (t for t in of_kind(whole, 2, True) if bool((t >= 0).all()))
    return any(bool((t.float().sum(dim=1) - 1).abs().max() < 1e-2) for t in shares)


def _close(one: Any, other: Any) -> bool:
    """Whether no tensor differs from its equal in shape by more than rounding."""
    pairs = zip(flat_tensors(one), flat_tensors(other), strict=False)
    return all(_same(a, b) for a, b in pairs if a.shape == b.shape and a.dtype == b.dtype)


def _same(a: Tensor, b: Tensor) -> bool:
    if not (a.is_floating_point() and a.layout == torch.strided):
        return a.layout != torch.strided or torch.equal(a, b)
    tolerance = 2e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=0.1 * tolerance, equal_nan=True)
