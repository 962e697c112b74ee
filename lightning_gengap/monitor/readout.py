"""What is shown: the prediction's keys, held between measurements and kept safe while abstaining. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

from lightning_gengap.predictors.predictor import Prediction


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
    last_recalibrated_gap: float | None = None
    abstaining: bool = False

    def show(
        self, values: Mapping[str, float], prediction: Prediction | None, prior_loss_gap: float | None = None
    ) -> dict[str, float]:
        """Take over a fresh measurement.

        While abstaining the gap is the larger of the prior mean and the last predicted one, and the predicted
        test accuracy never rises above the last predicted one: no checkpoint is kept by mistake. The loss gap is the
        larger of its prior and the last predicted one, also where only it could not be predicted.
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
            loss_gap = prior_loss_gap if prediction.loss_gap is None else prediction.loss_gap[0]
            if loss_gap is not None:
                if prediction.abstained or prediction.loss_gap is None:
                    loss_gap = max(loss_gap, self.last_loss_gap or 0.0)
                else:
                    self.last_loss_gap = loss_gap
                shown["predicted_loss_gap"] = loss_gap
        self.shown = shown
        return dict(self.shown)

    def show_recalibrated(self, gap: float | None) -> None:
        """Add the recalibrated gap to the measurement just shown; None where a correction has nothing to correct.

        While abstaining it is the shown gap without correction, and never below the last recalibrated one: what was
        observed to be too small once is not shown smaller because nothing is known now.
        """
        if gap is None:
            gap = max(self.shown["predicted_gap"], self.last_recalibrated_gap or 0.0)
            gap = min(gap, self.shown["train_accuracy"])
        else:
            self.last_recalibrated_gap = gap
        self.shown["recalibrated_gap"] = gap

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
            "last_recalibrated_gap": self.last_recalibrated_gap,
            "abstaining": self.abstaining,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Readout:
        """Go on from `state()`; what another version's checkpoint does not have starts anew."""
        readout = cls(**{own.name: state[own.name] for own in fields(cls) if own.name in state})
        readout.shown = dict(readout.shown)
        return readout
