"""A training on a part of the data: its accuracies after epochs and at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_AS_GOOD = 0.005  # of train accuracy: what this much apart is not told apart


@dataclass(frozen=True)
class Part:
    """What a training on a part of the data has reached. Accuracies are fractions, in eval mode.

    Attributes:
        samples: that it was trained on.
        tested: samples that it was tested on at its end.
        train_accuracy: at its end, on all that it was trained on.
        test_accuracy: at its end, on all that it was tested on.
        epochs: after which it was read too: at most 50 of them, the last among them.
        train_accuracies: after these epochs, on 2,000 of the samples at most.
        test_accuracies: after these epochs, on at most as many test samples as it was trained on, 256 or more of them,
            and 2,000 at most.
        seconds: that it took.
    """

    samples: int
    tested: int
    train_accuracy: float
    test_accuracy: float
    epochs: tuple[int, ...]
    train_accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    seconds: float

    def test_accuracy_at(self, train_accuracy: float) -> float:
        """The test accuracy where this training last had such a train accuracy; the nearest one where it never had.

        Between two readings it is interpolated. What few test samples err at the end, they err before: the difference
        to all of them there is added.
        """
        train, test = np.array(self.train_accuracies), np.array(self.test_accuracies)
        below = np.flatnonzero(train <= train_accuracy + _AS_GOOD)
        offset = self.test_accuracy - float(test[-1])
        if len(below) == 0:
            return self._within(float(test[0]) + offset)
        last = int(below[-1])
        if last == len(train) - 1:
            return self.test_accuracy
        step = float(train[last + 1] - train[last])
        share = min(max((train_accuracy - float(train[last])) / step, 0.0), 1.0)
        return self._within(float(test[last] + share * (test[last + 1] - test[last])) + offset)

    def _within(self, accuracy: float) -> float:
        return min(max(accuracy, 0.0), 1.0)
