"""Logits as if each sample had been left out, by one Newton step from its leverage.

Shapes and names are those of `leverage`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gengap.linalg.leverage import MOST_NUMBERS, Blocks, factor_transposed

SURE = 0.9  # below it, the sum of a sample's leverages stands for the largest of them


class LeftOut(NamedTuple):
    """Logits as if each sample had been left out, and the largest leverage of each, in [0, 1).

    Where the sum of a sample's leverages is below `SURE`, the leverage is that sum: it bounds the largest from above.
    """

    logits: Tensor
    leverage: Tensor


def left_out(logits: Tensor, targets: Tensor, blocks: Blocks) -> LeftOut:
    """The logits f + Q (I - Lambda Q)^-1 (p - y) of every sample without it, by one Newton step.

    Memory: see `leverage_bytes`. Time: see `leverage_multiplications`.
    """
    count, classes = logits.shape
    # Reserved at once: small results kept between large temporary ones would scatter the memory for good.
    found = LeftOut(torch.empty_like(logits), logits.new_empty(count))
    step = _at_once(classes)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        some = _left_out(logits[rows], targets[rows], blocks[rows])
        for whole, part in zip(found, some, strict=True):
            whole[rows] = part
    return found


def leverage_bytes(samples: int, classes: int) -> int:
    """What `left_out` takes at most, from above: a dozen tensors like the leverages of the samples that go together."""
    return 8 * 12 * min(samples, _at_once(classes)) * classes**2


def leverage_multiplications(samples: int, classes: int) -> float:
    """What `left_out` takes: as many multiplications take as long as its products, solves and eigenvalues."""
    return 4.0 * samples * classes**3


def _at_once(classes: int) -> int:
    return max(MOST_NUMBERS // classes**2, 1)


def _left_out(logits: Tensor, targets: Tensor, blocks: Tensor) -> LeftOut:
    probabilities = logits.softmax(dim=1)
    residuals = probabilities - one_hot(targets, logits.shape[1])
    p = probabilities[:, :, None]
    moved = p * (blocks - p.mT @ blocks)  # Lambda Q
    moved.neg_().diagonal(dim1=1, dim2=2).add_(1)
    amplified = torch.linalg.solve(moved, residuals[:, :, None])
    del moved
    found = logits + (blocks @ amplified)[:, :, 0]
    kernel = factor_transposed(p, factor_transposed(p, blocks).mT)  # B^T Q B
    leverage = kernel.diagonal(dim1=1, dim2=2).sum(dim=1)
    unsure = ~(leverage < SURE)
    leverage[unsure] = torch.linalg.eigvalsh(kernel[unsure])[:, -1]
    return LeftOut(found, leverage)
