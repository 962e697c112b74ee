"""What a reference says of each sample without having seen its label; asked once per training, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement.fitting import Judged, Unreadable
from lightning_gengap.measures.agreement.mislabelled import contradicted
from lightning_gengap.measures.agreement.references import REFERENCES, Said
from lightning_gengap.network.probe import Probe

PARTS = (
    "rows",
    "predicted",
    "shares",
    "fitted",
    "flipped",
    "labels",
    "contradicted",
)  # of an answer, as memory keeps it


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
    """What this reference says. It is asked once per training, and the probe's memory keeps the answer.

    Raises:
        Undefined: it does not exist for these samples, or takes too much memory or time.
    """
    parts = [f"out_of_fold/{name}/{part}" for part in PARTS]
    known = [probe.memory.get(part) for part in parts]
    if probe.places is None:
        judged = Judged.of(probe)
        if known[0] is None or not torch.equal(known[0], judged.rows):
            known = _answer(probe, name, judged)
            probe.memory.update({part: value for part, value in zip(parts, known, strict=True) if value is not None})
    rows, predicted, shares, fitted, flipped, labels, *_ = known
    if rows is None or predicted is None or shares is None or fitted is None or labels is None:
        raise Undefined("its reference was not asked yet")
    accuracy = float((predicted == labels).double().mean())
    found = OutOfFold(rows, predicted, shares[:, 0], shares[:, 1], int(fitted), accuracy, flipped)
    return found if probe.places is None else found.at(probe.places)


def most_telling(why: Sequence[Undefined]) -> Undefined:
    """The first reason that is not of another kind of data, else the first."""
    return next((each for each in why if not isinstance(each, OtherKind)), why[0])


def _answer(probe: Probe, name: str, judged: Judged) -> list[Tensor | None]:
    """What is kept of an answer."""
    said = _asked(probe, name, judged)
    shares, predicted = said.shares.max(1)
    of_label = said.shares.gather(1, judged.ranks[:, None])[:, 0]
    return [
        judged.rows,
        judged.classes[predicted],
        torch.stack([of_label, shares], dim=1).float(),
        torch.tensor(said.fitted),
        None if said.flipped is None else judged.classes[said.flipped],
        judged.classes[judged.ranks],
        contradicted(said.shares, judged.ranks),
    ]


def _asked(probe: Probe, name: str, judged: Judged) -> Said:
    """The answer, by the judged samples alone where others cannot be read."""
    try:
        return REFERENCES[name].ask(probe, judged)
    except Unreadable as unreadable:
        note = f"references are fitted on the monitored samples alone, as others cannot be read: {unreadable}"
        if note not in probe.notes:
            probe.notes.append(note)
    try:
        return REFERENCES[name].ask(replace(probe, others=None), judged)
    except Unreadable as unreadable:
        raise Undefined(str(unreadable)) from unreadable
