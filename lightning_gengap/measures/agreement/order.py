"""Whether the network is surer of the samples that a reference gets right: it learns what carries over to others."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 5  # samples that a reference gets right, and that it gets wrong
NEITHER = 0.5


def order(margins: Tensor, right: Tensor) -> float:
    """How often a sample that a reference gets right has the larger margin of two, the other being one it gets wrong.

    Equal margins count half. It is the area under the ROC curve of the margins, by ranks (Mann and Whitney 1947).

    Args:
        margins: logit of the label minus the largest other one, shape (examples,).
        right: whether the reference gets the sample right, shape (examples,).

    Returns:
        A fraction; 0.5, as of margins that have nothing to do with the reference, where fewer than five samples are
        right or wrong.
    """
    count, wrong = int(right.sum()), int((~right).sum())
    if min(count, wrong) < FEWEST:
        return NEITHER
    _, place, sizes = torch.unique(margins, return_inverse=True, return_counts=True)
    below = sizes.cumsum(0) - sizes
    ranks = (below + (sizes.double() + 1) / 2)[place]  # from 1, equal ones share theirs
    return float((ranks[right].sum() - count * (count + 1) / 2) / (count * wrong))
