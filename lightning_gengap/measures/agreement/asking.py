"""When references are asked: at once, or in slices as there is time; what goes on later is kept in a probe's memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.agreement.answers import Said
from lightning_gengap.measures.agreement.fitting import Fit, Judged, Unreadable, finite, others
from lightning_gengap.measures.agreement.mislabelled import contradicted
from lightning_gengap.measures.agreement.references import REFERENCES
from lightning_gengap.measures.measure import growing
from lightning_gengap.network.probe import Probe

PARTS = ("rows", "predicted", "shares", "fitted", "flipped", "labels", "contradicted")  # of an answer, as it is kept
GROWING = growing("reference")  # what memory keys begin with of references that are yet to take in others


@dataclass
class Asked:
    """A reference that is being asked, and how many others it has taken in.

    It answers for the judged samples alone first, and then each time that its samples have doubled.

    Attributes:
        taken: others that the fit has taken in.
        damaged: how many of them are not finite, and were left out.
        fitted: samples that the last answer goes by, damaged ones too; 0 before the first.
        said: the last answer of now.
    """

    probe: Probe
    name: str
    judged: Judged
    fit: Fit
    taken: int = 0
    damaged: int = 0
    fitted: int = 0
    said: Said | None = None

    @classmethod
    def of(cls, probe: Probe, name: str, judged: Judged) -> Asked:
        """The reference as it was kept, or new.

        Raises:
            Undefined: it does not exist for these samples, or takes too much memory or time.
        """
        prefix = f"{GROWING}{name}/"
        kept = {key.removeprefix(prefix): part for key, part in probe.memory.items() if key.startswith(prefix)}
        progress, _ = kept.pop("progress", None), kept.pop("turn", None)
        asked = cls(probe, name, judged, REFERENCES[name].fit(probe, judged, kept))
        if progress is not None:
            asked.fit.most, asked.taken, asked.damaged, asked.fitted = progress.tolist()
        return asked

    @property
    def whole(self) -> bool:
        """Whether its answer goes by all samples that it is to be fitted on."""
        return self.fitted >= len(self.judged.rows) + self.fit.most

    @property
    def share(self) -> float:
        """Of these samples, that its answer goes by."""
        return self.fitted / (len(self.judged.rows) + self.fit.most)

    @property
    def first_price(self) -> float:
        """Seconds that its first answer is expected to take."""
        return self.fit.price.first + self.fit.price.answer

    def next_price(self, goal: int) -> float:
        """Seconds that have to be there at once to go on to this number of others."""
        price = self.fit.price
        if not self.fitted:
            return self.first_price
        if not self.fit.keeps:
            return self.first_price + goal * price.each
        return 0.0 if self.taken < goal else price.answer

    def goal(self, seconds: float = 0.0) -> int:
        """The number of others at the next answer, with so many seconds left."""
        judged = len(self.judged.rows)
        return self.fit.most if seconds == math.inf else min(2 * max(self.fitted, judged) - judged, self.fit.most)

    def answer(self) -> None:
        """Answer by the samples that are in."""
        self.said, self.fitted = self.fit.said(), len(self.judged.rows) + self.taken

    def advance(self, left: Callable[[], float]) -> bool:
        """Take in others until the samples have doubled, or all at once without a limit, and answer.

        Args:
            left: seconds that are left.

        Returns:
            Whether it has answered; else it goes on from here, once there is more time.

        Raises:
            Unreadable: the others cannot be read.
        """
        seconds, keeps = left(), self.fit.keeps
        goal = self.goal(seconds)
        if seconds <= 0 or seconds < self.next_price(goal):
            return False
        with closing(others(self.probe, self.judged, self.fit.read, self.taken, goal)) as slices:
            for rows, ranks in slices:
                good, of_good = finite(rows, ranks)
                self.fit.add(good, of_good)
                self.taken += len(rows)
                self.damaged += len(rows) - len(good)
                if keeps and self.taken < goal and left() <= 0:
                    return False
        if self.taken < goal:
            self.fit.most = self.taken  # there are no more
        if keeps and left() < self.fit.price.answer:
            return False
        self.answer()
        return True

    def keep(self) -> None:
        """Keep the answer, and what goes on from here."""
        if self.said is not None:
            parts = zip(PARTS, _answer(self.said, self.judged, self.fitted - self.damaged), strict=True)
            memory = {f"out_of_fold/{self.name}/{part}": value for part, value in parts if value is not None}
            self.probe.memory.update(memory)
        stop(self.probe.memory, self.name)
        if not self.whole:
            taken, damaged = (self.taken, self.damaged) if self.fit.keeps else (0, 0)
            going_on = self.fit.kept() | {
                "progress": torch.tensor([self.fit.most, taken, damaged, self.fitted]),
                "turn": torch.tensor([self.share, self.next_price(self.goal())], dtype=torch.float64),
            }
            self.probe.memory.update({f"{GROWING}{self.name}/{part}": value for part, value in going_on.items()})


def ask(probe: Probe, names: Iterable[str]) -> dict[str, Undefined]:
    """Ask these references; where there is no time for all, ask the others and fit on more samples another time.

    One is asked whatever it takes: that on patches, by which copies are made, or else the cheapest. Then it is the
    cheapest, and later the one of which the smallest share is in.

    Returns:
        Why some of them cannot be asked.

    Raises:
        Undefined: there are fewer than five samples per class that is present.
    """
    judged = Judged.of(probe)
    goes_on = any(key.startswith(GROWING) for key in probe.memory)
    if goes_on and _next_price(probe.memory) > probe.until - time.perf_counter():
        return {}
    why: dict[str, Undefined] = {}
    asked: list[Asked] = []
    for name in names:
        if is_growing(probe, name) if goes_on else not is_answered(probe, name, judged):
            try:
                asked.append(Asked.of(probe, name, judged))
            except Undefined as undefined:
                why[name] = frameless(undefined)

    def left() -> float:
        return probe.until - time.perf_counter()

    def tried(step: Callable[[Asked], bool], one: Asked) -> bool:
        """Whether the step has led to an answer or a refusal, so that there is more to do."""
        try:
            return _despite_others(step, one)
        except Undefined as undefined:
            why[one.name] = frameless(undefined)
            asked.remove(one)
            stop(probe.memory, one.name)
            return True

    answered = any(is_answered(probe, name, judged) for name in REFERENCES)
    if probe.until < math.inf:
        for one in sorted((each for each in asked if not each.fitted), key=_turn):
            if not (answered and one.first_price > left()):
                tried(_first, one)
                answered = answered or one.said is not None
    if all(each.fitted for each in asked) or probe.until == math.inf:
        while growing_ones := [each for each in asked if not each.whole]:
            if not tried(lambda one: one.advance(left), min(growing_ones, key=lambda each: each.share)):
                break
    for one in asked:
        one.keep()
    return why


def is_answered(probe: Probe, name: str, judged: Judged) -> bool:
    """Whether the memory holds an answer of this reference for these samples."""
    rows = probe.memory.get(f"out_of_fold/{name}/rows")
    return rows is not None and torch.equal(rows, judged.rows)


def is_growing(probe: Probe, name: str) -> bool:
    """Whether this reference is yet to be asked, or to be fitted on more samples."""
    return f"{GROWING}{name}/progress" in probe.memory


def stop(memory: dict[str, Tensor], name: str) -> None:
    """Drop what this reference would go on from."""
    for key in [key for key in memory if key.startswith(f"{GROWING}{name}/")]:
        del memory[key]


def _next_price(memory: dict[str, Tensor]) -> float:
    """Seconds that have to be there for the reference whose turn it is."""
    turns = [memory.get(f"{GROWING}{name}/turn") for name in REFERENCES]
    waiting = [(share, price) for share, price in (turn.tolist() for turn in turns if turn is not None)]
    return min(waiting, default=(0.0, 0.0))[1]


def _turn(one: Asked) -> tuple[bool, float]:
    return one.name != "patch", one.first_price


def _first(one: Asked) -> bool:
    one.answer()
    return True


def _despite_others(step: Callable[[Asked], bool], one: Asked) -> bool:
    """Take the step; where others cannot be read, be content with the judged samples, or with those that are in."""
    try:
        return step(one)
    except Unreadable as unreadable:
        alone = one.fitted <= len(one.judged.rows)
        which = "the monitored samples alone" if alone else f"{one.fitted:,} samples"
        note = f"references are fitted on {which}, as others cannot be read: {unreadable}"
        if note not in one.probe.notes:
            one.probe.notes.append(note)
    if one.fitted:
        one.fit.most = one.fitted - len(one.judged.rows)
        return True
    one.probe, one.taken, one.damaged = replace(one.probe, others=None), 0, 0
    one.fit = REFERENCES[one.name].fit(one.probe, one.judged, {})
    return step(one)


def _answer(said: Said, judged: Judged, fitted: int) -> list[Tensor | None]:
    """What is kept of an answer."""
    shares, predicted = said.shares.max(1)
    of_label = said.shares.gather(1, judged.ranks[:, None])[:, 0]
    return [
        judged.rows,
        judged.classes[predicted],
        torch.stack([of_label, shares], dim=1).float(),
        torch.tensor(fitted),
        None if said.flipped is None else judged.classes[said.flipped],
        judged.classes[judged.ranks],
        contradicted(said.shares, judged.ranks),
    ]
