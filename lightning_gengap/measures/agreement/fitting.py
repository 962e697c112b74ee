"""The samples that references are fitted on: those that they are asked about, and as many others as a cost allows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_gengap.derivatives.time import A_SECOND
from lightning_gengap.errors import Undefined, one_line
from lightning_gengap.measures.agreement.answers import Said
from lightning_gengap.measures.difficulty.compared_samples import compared, shrunk
from lightning_gengap.measures.difficulty.input_difficulty import precise
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch

SECONDS = 20  # that all samples of a reference may take on one core, by the multiplications that it declares
USUAL = 2 * A_SECOND  # multiplications that a second is expected to be enough for
MOST_READ = 2**28  # numbers that are read of others: 87,000 images of 3 x 32 x 32, and 1,800 of 3 x 224 x 224

Read = Callable[[ProbeBatch], Tensor | None]  # from a batch to what a reference sees of it, one row a sample


class Unreadable(Exception):  # noqa: N818
    """Others that could not be read, or are not like the monitored samples: the cause."""


class Price(NamedTuple):
    """Seconds that a fit is expected to take.

    Attributes:
        first: to take in the judged samples.
        each: to take in another one.
        answer: to say what it then says.
    """

    first: float
    each: float
    answer: float


class Fit(Protocol):
    """A reference that has taken in the judged samples, and takes in others.

    Attributes:
        most: how many others it is to take in.
        price: what that takes.
        keeps: whether what it has taken in goes on in what is `kept`; else it is taken in anew the next time.
    """

    most: int
    price: Price
    keeps: bool

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """What it sees of a batch, one row a sample; None where the batch is not like the judged samples."""

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Take in samples that were read, and the ranks of their labels; -1 is of none."""

    def said(self) -> Said:
        """What it says of each judged sample without having learnt from it."""

    def kept(self) -> dict[str, Tensor]:
        """What a later fit goes on from; empty where no others were taken in."""


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


def others(
    probe: Probe, judged: Judged, read: Read, start: int, stop: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Samples that are not judged, from one place in their order to another: what is read of them, and their ranks.

    The probe's own come first. They come in slices, and nothing is kept.

    Raises:
        Unreadable: the data set fails, or gives what cannot be read so.
    """
    passed = 0
    for batch, places in zip(probe.batches, torch.arange(len(probe.targets)).split(probe.sizes), strict=True):
        keep = torch.isin(places, judged.rows, invert=True).nonzero()[:, 0]
        keep, passed = keep[max(start - passed, 0) : max(stop - passed, 0)], passed + len(keep)
        if len(keep):
            seen = read(batch)
            assert seen is not None, "the judged samples were read so"
            yield seen[keep.to(seen.device)], judged.ranks_of(batch.targets.cpu()[keep])
    if stop <= passed or probe.others is None:
        return
    with closing(probe.others.batches(stop - passed, max(start - passed, 0))) as batches:
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
            yield seen, judged.ranks_of(batch.targets.cpu())


def inputs_like(own: Tensor, batch: ProbeBatch) -> Tensor | None:
    """The inputs of a batch, images averaged down as the judged ones are; None where they differ in shape."""
    inputs = None if batch.inputs is None else shrunk(batch.inputs.detach())
    return None if inputs is None or inputs.shape[1:] != own.shape[1:] else inputs


def finite(seen: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Those rows that are finite, and their ranks: one damaged sample must not spoil a fit on all."""
    good = seen.isfinite().flatten(1).all(1)
    return (seen, ranks) if bool(good.all()) else (seen[good], ranks[good.cpu()])


def in_units(own: Tensor) -> Callable[[Tensor], Tensor]:
    """What flattens inputs to float32 numbers on the CPU that trees can be grown on, by the range that these have.

    Trees take numbers for equal that differ by less than 1e-7. Where all of an input differ by less than one, its unit
    is a power of two, which rounds nothing. Float64 is centred, because what varies in it may be lost in float32.
    """
    rows = precise(own).flatten(1)
    lowest, extent = rows.amin(0), rows.amax(0) - rows.amin(0)
    unit = 2.0 ** torch.where((extent > 0) & (extent < 1), extent, 1.0).log2().floor().clamp(min=-120)
    zero = lowest + extent / 2 if rows.dtype == torch.float64 else torch.zeros_like(lowest)
    return lambda inputs: ((precise(inputs).flatten(1) - zero) / unit).float().cpu()
