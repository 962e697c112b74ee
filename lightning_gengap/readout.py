"""What is shown: the prediction's keys, held between measurements and kept safe while abstaining. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from lightning_gengap.predictor import Prediction


class Status(IntEnum):
    """What the shown values are: the value of the key `status`."""

    FRESH = 0
    HELD = 1
    FAILED = 2
    ABSTAINING = 3
    OFF = 4


@dataclass
class Readout:
    """The last shown values, and the last prediction that was not an abstention.

    Attributes:
        shown: values by key, without the prefix; never NaN, complete after the first `show`.
        abstaining: whether the shown prediction is an abstention.
    """

    shown: dict[str, float] = field(default_factory=dict)
    last_gap: float | None = None
    last_test_accuracy: float | None = None
    last_loss_gap: float | None = None
    abstaining: bool = False

    def show(self, values: Mapping[str, float], prediction: Prediction | None) -> dict[str, float]:
        """Take over a fresh measurement.

        While abstaining the gap is the larger of the prior mean and the last predicted one, and the predicted
        test accuracy never rises above the last predicted one: no checkpoint is kept by mistake.
        """
        accuracy = values["train_accuracy"]
        self.abstaining = prediction is not None and prediction.abstained
        shown = {"train_accuracy": accuracy, "train_loss": values["train_loss"], "status": float(Status.FRESH)}
        if prediction is not None:
            gap, test_accuracy = prediction.gap, accuracy - prediction.gap
            if prediction.abstained:
                gap = min(max(gap, self.last_gap or 0.0), accuracy)
                test_accuracy = min(accuracy - gap, 1.0 if self.last_test_accuracy is None else self.last_test_accuracy)
                shown["status"] = float(Status.ABSTAINING)
            else:
                self.last_gap, self.last_test_accuracy = gap, test_accuracy
            shown |= {
                "predicted_gap": gap,
                "predicted_gap_lower": prediction.lower,
                "predicted_gap_upper": prediction.upper,
                "predicted_test_accuracy": test_accuracy,
                "in_support": float(prediction.in_support),
            }
            if prediction.loss_gap is not None:
                loss_gap = prediction.loss_gap[0]
                if prediction.abstained:
                    loss_gap = max(loss_gap, self.last_loss_gap or 0.0)
                else:
                    self.last_loss_gap = loss_gap
                shown["predicted_loss_gap"] = loss_gap
        self.shown = shown
        return dict(self.shown)

    def hold(self, status: Status) -> dict[str, float]:
        """The last values again, with the reason; an abstention stays one."""
        self.shown["status"] = float(Status.ABSTAINING if self.abstaining and status == Status.HELD else status)
        return dict(self.shown)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the arguments that rebuild this readout."""
        return {
            "shown": dict(self.shown),
            "last_gap": self.last_gap,
            "last_test_accuracy": self.last_test_accuracy,
            "last_loss_gap": self.last_loss_gap,
            "abstaining": self.abstaining,
        }
