"""What measuring may cost: the account of one training, and what an epoch allows. It knows seconds only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

SHARE = 0.048  # of the training time of an epoch, that the prediction may take at most ...
FLOOR = 0.5  # ... unless this many seconds are more; the rest of 5 % is for what is done at every batch
START = 1.0  # seconds that the start may take before the first measurement, unless half of what was trained is more ...
START_SHARE = 0.5  # ... of what can also be taken later
RESERVE = 0.25  # of an epoch's allowance, for what can also be taken later, as long as a measure is growing
RECENT = 5  # prices of which the median is expected next


@dataclass
class Budget:
    """Bounds the recurring cost of measuring over a run.

    Attributes:
        share: the largest share of the training time that may be spent on all; None for no bound.
        start_up: seconds of what is done once per training.
        spent: seconds of everything else.
        trained: seconds of training outside the monitor.
        first_price: seconds per sample that the first measurement is expected to take; None if unknown.
        prices: seconds per sample of the last measurements, without optional measures.
        saved: what earlier epochs allowed, and nobody took since the last measurement; what was taken too much, if less
            than 0.
        put_aside: what was reserved, and what measurements left, for what can also be taken later; what that took too
            much, if less than 0.
        epoch_trained, epoch_spent: seconds of the present epoch: of training, and of what its allowance has paid for.
        measured: whether anything was measured in the present epoch.
    """

    share: float | None
    start_up: float = 0.0
    spent: float = 0.0
    trained: float = 0.0
    first_price: float | None = None
    prices: list[float] = field(default_factory=list)
    saved: float = 0.0
    put_aside: float = 0.0
    epoch_trained: float = 0.0
    epoch_spent: float = 0.0
    measured: bool = False

    def train(self, seconds: float) -> None:
        """Training went on for so long."""
        self.trained += seconds
        self.epoch_trained += seconds

    def allowance(self, share_of_epoch: float = 1.0, growing: bool = False) -> float:
        """Seconds that the prediction may take now: a share of this epoch or half a second, whichever is more.

        Half a second belongs to a whole epoch. What earlier epochs left adds up until it pays for a measurement. A part
        is reserved as long as a measure is `growing`, which can also take later what it takes.
        """
        of_epoch = self._of_epoch(share_of_epoch)
        return self.saved + of_epoch - (self._reserve(share_of_epoch) if growing else 0.0) - self.epoch_spent

    def spare(self, left: float, share_of_epoch: float, first: bool) -> float:
        """Seconds for what can also be taken later, where this much is `left` of the allowance of the prediction.

        Until the `first` measurement is over, what the start has left is for that too.
        """
        if self.share is None:
            return math.inf
        own = max(left, 0.0) + self._reserve(share_of_epoch) + self.put_aside
        return max(own, 0.0) + (self._left_of_start if first else 0.0)

    def _reserve(self, share_of_epoch: float) -> float:
        return 0.0 if self.share is None else RESERVE * self._of_epoch(share_of_epoch)

    @property
    def _left_of_start(self) -> float:
        return max(START_SHARE * self.trained, START, self.start_up) - self.start_up

    def _of_epoch(self, share_of_epoch: float) -> float:
        if self.share is None:
            return math.inf
        return max(min(self.share, SHARE) * self.epoch_trained, FLOOR * share_of_epoch)

    @property
    def left(self) -> float:
        """Seconds of the whole budget that nobody has spent."""
        return math.inf if self.share is None else self.share * self.trained - self.spent - self.start_up

    @property
    def price(self) -> float:
        """Seconds per sample that a measurement is expected to take; 0 if nothing is known."""
        return median(self.prices) if self.prices else self.first_price or 0.0

    def spend(self, seconds: float) -> None:
        """Training waited for so long, on what is not done once per training."""
        self.spent += seconds
        self.epoch_spent += seconds

    def pay(self, seconds: float, samples: int, others: float = 0.0) -> None:
        """Note the price of a measurement of so many samples; its time is booked where training waits for it.

        The allowance does not pay for the `others`, optional measures for which the whole budget pays.
        """
        self.epoch_spent -= others
        self.prices = [*self.prices, seconds / samples][-RECENT:]
        self.measured = True

    def pay_growing(self, seconds: float, first: bool) -> None:
        """Pay for what could also have been taken later.

        Until the `first` measurement is over, that is paid from what the start has left. The rest is taken from what
        was put aside, and not from the allowance of the prediction.
        """
        of_start = min(seconds, self._left_of_start) if first else 0.0
        self.start_up += of_start
        self.epoch_spent -= seconds - of_start
        self.put_aside -= seconds - of_start

    def end_epoch(self, growing: bool = False) -> None:
        """Begin the next epoch.

        What nobody took goes on until something is measured; it is then put aside, as is what was reserved, as long as
        a measure is `growing`. What was taken too much is owed by the next epochs, but no more than this one allowed,
        and not by a first measurement, whose price nobody knew.
        """
        most = self._of_epoch(1.0)
        left = max(self.allowance(1.0, growing), -most) if self.share is not None else 0.0
        is_first = self.measured and len(self.prices) == 1
        self.saved = left if not self.measured else 0.0 if is_first else min(left, 0.0)
        unused = max(left, 0.0) if self.measured else 0.0
        self.put_aside = self.put_aside + self._reserve(1.0) + unused if growing else 0.0
        self.epoch_trained = self.epoch_spent = 0.0
        self.measured = False

    @property
    def overhead(self) -> float:
        """Seconds spent on measuring, start-up included, over seconds of training; 0 before any training."""
        return (self.spent + self.start_up) / self.trained if self.trained > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but the share."""
        return {name: value for name, value in asdict(self).items() if name != "share"}
