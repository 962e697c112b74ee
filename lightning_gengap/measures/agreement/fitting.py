"""The samples that references are fitted on: those that they are asked about, and as many others as a cost allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.derivatives.time import A_SECOND
from lightning_gengap.errors import Undefined, one_line
from lightning_gengap.measures.difficulty.compared_samples import compared
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch

SECONDS = 20  # that all samples of a reference may take on one core, by the multiplications that it declares
MOST_READ = 2**28  # numbers that are read of others: 87,000 images of 3 x 32 x 32, and 1,800 of 3 x 224 x 224

Read = Callable[[ProbeBatch], Tensor | None]  # from a batch to what a reference sees of it, one row a sample


class Unreadable(Exception):  # noqa: N818
    """Others that could not be read, or are not like the monitored samples: the cause."""


@dataclass(frozen=True)
class Judged:
    """The samples that a reference is asked about.

    Attributes:
        rows: their places in the probe, ascending.
        classes: their distinct labels, ascending.
        ranks: of their labels among these, shape (judged,).
    """

    rows: Tensor
    classes: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, probe: Probe) -> Judged:
        """Those that are compared.

        Raises:
            Undefined: there are fewer than five samples per class that is present.
        """
        rows = compared(probe).rows
        return cls(rows, *probe.targets[rows].unique(return_inverse=True))

    def ranks_of(self, labels: Tensor) -> Tensor:
        """The ranks of labels; -1 for one that no judged sample has."""
        places = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        return torch.where(self.classes[places] == labels, places, -1)


def number_of_others(probe: Probe, judged: Judged, numbers: int, cost: float) -> int:
    """How many others a reference is fitted on: all, or as many as it may read and as its time allows.

    Args:
        probe: of the monitored samples.
        judged: those that the reference is asked about.
        numbers: that one sample holds.
        cost: multiplications that one sample takes.
    """
    there = len(probe.targets) - len(judged.rows) + (0 if probe.others is None else len(probe.others))
    if probe.train_samples is not None:
        there = min(there, max(probe.train_samples - len(judged.rows), 0))
    affordable = SECONDS * A_SECOND / max(cost, 1) - len(judged.rows)
    return int(max(min(there, MOST_READ // max(numbers, 1), affordable), 0))


def others(probe: Probe, judged: Judged, read: Read, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many samples that are not judged, in slices: what is read of them, and the ranks of their labels.

    The probe's own come first. Those that are not finite are left out. Nothing is kept.

    Raises:
        Unreadable: the data set fails, or gives what cannot be read so.
    """
    left = most
    for batch, places in zip(probe.batches, torch.arange(len(probe.targets)).split(probe.sizes), strict=True):
        keep = torch.isin(places, judged.rows, invert=True).nonzero()[:left, 0]
        if len(keep):
            seen = read(batch)
            assert seen is not None, "the judged samples were read so"
            left -= len(keep)
            yield _finite(seen[keep.to(seen.device)], judged.ranks_of(batch.targets.cpu()[keep]))
    if left <= 0 or probe.others is None:
        return
    with closing(probe.others.batches(left)) as batches:
        while True:
            try:
                batch = next(batches)
                seen = read(batch)
            except StopIteration:
                return
            except Exception as error:  # whatever the user's data set raises
                raise Unreadable(error.reason if isinstance(error, Undefined) else one_line(error)) from error
            if seen is None or len(seen) != len(batch.targets):
                raise Unreadable("they are not like the monitored ones")
            yield _finite(seen[:left], judged.ranks_of(batch.targets.cpu()[:left]))
            left -= len(seen)


def _finite(seen: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Those rows that are finite, and their ranks: one damaged sample must not spoil a fit on all."""
    finite = seen.isfinite().flatten(1).all(1)
    return (seen, ranks) if bool(finite.all()) else (seen[finite], ranks[finite.cpu()])
