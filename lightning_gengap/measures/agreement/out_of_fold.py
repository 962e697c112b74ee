"""What a reference says of each sample without having seen its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.errors import Later, OtherKind, Undefined
from lightning_gengap.measures.agreement.asking import PARTS, ask, is_answered, is_growing
from lightning_gengap.measures.agreement.fitting import Judged
from lightning_gengap.network.probe import Probe


@dataclass(frozen=True)
class OutOfFold:
    """What one reference says of every sample that is judged, without having learnt from it.

    Attributes:
        rows: where these samples stand in the probe, shape (judged,).
        predicted: class indices, shape (judged,).
        of_label: how probable it takes the given label for, shape (judged,).
        of_predicted: how probable it takes what it predicts for.
        fitted: the number of samples that it was fitted on.
        accuracy: on all samples that are judged, also where these are some of them.
        flipped: what it predicts for the mirror images, class indices; None where there are none.
    """

    rows: Tensor
    predicted: Tensor
    of_label: Tensor
    of_predicted: Tensor
    fitted: int
    accuracy: float
    flipped: Tensor | None = None

    def at(self, places: Tensor) -> OutOfFold:
        """What it says of those samples alone that stand at these places, ascending; `rows` are then among them."""
        kept = torch.isin(self.rows, places)
        return OutOfFold(
            torch.searchsorted(places, self.rows[kept]),
            self.predicted[kept],
            self.of_label[kept],
            self.of_predicted[kept],
            self.fitted,
            self.accuracy,
            None if self.flipped is None else self.flipped[kept],
        )


def out_of_fold(probe: Probe, name: str) -> OutOfFold:
    """What this reference says. The probe's memory keeps the answer; it is asked where there is none.

    Raises:
        Undefined: it does not exist for these samples, or takes too much memory or time.
        Later: it was not asked yet.
    """
    if probe.places is None:
        judged = Judged.of(probe)
        if not (is_answered(probe, name, judged) or is_growing(probe, name)):
            why = ask(probe, [name])
            if name in why:
                raise why[name]
        if not is_answered(probe, name, judged):
            raise Later("its reference was not asked yet")
    rows, predicted, shares, fitted, flipped, labels, _ = (
        probe.memory.get(f"out_of_fold/{name}/{part}") for part in PARTS
    )
    if rows is None or predicted is None or shares is None or fitted is None or labels is None:
        raise Later("its reference was not asked yet")
    accuracy = float((predicted == labels).double().mean())
    found = OutOfFold(rows, predicted, shares[:, 0], shares[:, 1], int(fitted), accuracy, flipped)
    return found if probe.places is None else found.at(probe.places)


def most_telling(why: Sequence[Undefined]) -> Undefined:
    """The first reason that is not of another kind of data, else the first."""
    return next((each for each in why if not isinstance(each, OtherKind)), why[0])
