"""What is shown: the prediction's keys, held between measurements and kept safe while abstaining. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from lightning_gengap.predictors.predictor import Prediction


class Status(IntEnum):
    """What the shown values are: the value of the key `status`."""

    FRESH = 0
    HELD = 1
    FAILED = 2
    ABSTAINING = 3
    OFF = 4
    NEVER = 5


@dataclass
class Readout:
    """The values that are shown, by key without the prefix, and the last ones that were no abstention.

    What is shown is never NaN, and complete after the first `show`.
    """

    shown: dict[str, float] = field(default_factory=dict)
    last_gap: float = 0.0
    last_test_accuracy: float = 1.0
    last_loss_gap: float = 0.0
    last_recalibrated_gap: float = 0.0
    abstaining: bool = False

    def show(
        self, values: Mapping[str, float], prediction: Prediction | None, prior_loss_gap: float | None = None
    ) -> None:
        """Take over the values of a fresh measurement, and its prediction where there is a predictor.

        An abstention must not look better than the last prediction, because a checkpoint would be kept by mistake. So
        the gap is then the larger of the prior and the last predicted one, and the predicted test accuracy does not
        rise above the last predicted one. The loss gap is the larger of its prior and the last predicted one, also
        where it alone could not be predicted. The prior is None where the predictor has no loss head.
        """
        accuracy = values["train_accuracy"]
        self.shown = {"train_accuracy": accuracy, "train_loss": values["train_loss"], "status": float(Status.FRESH)}
        self.abstaining = prediction is not None and prediction.abstained
        if prediction is None:
            return
        gap, test_accuracy = prediction.gap, accuracy - prediction.gap
        if prediction.abstained:
            gap = min(max(gap, self.last_gap), accuracy)
            test_accuracy = min(accuracy - gap, self.last_test_accuracy)
            self.shown["status"] = float(Status.ABSTAINING)
        else:
            self.last_gap, self.last_test_accuracy = gap, test_accuracy
        self.shown |= {
            "predicted_gap": gap,
            "predicted_gap_lower": prediction.lower,
            "predicted_gap_upper": prediction.upper,
            "predicted_test_accuracy": test_accuracy,
            "in_support": float(prediction.in_support),
        }
        self._show_loss_gap(prediction, prior_loss_gap)

    def _show_loss_gap(self, prediction: Prediction, prior: float | None) -> None:
        if prediction.loss_gap is not None and not prediction.abstained:
            self.last_loss_gap = self.shown["predicted_loss_gap"] = prediction.loss_gap[0]
            return
        gap = prior if prediction.loss_gap is None else prediction.loss_gap[0]
        if gap is not None:
            self.shown["predicted_loss_gap"] = max(gap, self.last_loss_gap)

    def show_recalibrated(self, gap: float | None) -> None:
        """Add the recalibrated gap to the prediction just shown; None while abstaining.

        Then it is the shown gap, and at least the last recalibrated one: what was observed to be too small once is not
        shown smaller because nothing is known now.
        """
        if gap is None:
            gap = max(self.shown["predicted_gap"], self.last_recalibrated_gap)
            gap = min(gap, self.shown["train_accuracy"])
        else:
            self.last_recalibrated_gap = gap
        self.shown["recalibrated_gap"] = gap

    def hold(self, status: Status) -> None:
        """Keep the last values, and say why. An abstention that is held by the schedule stays an abstention."""
        self.shown["status"] = float(Status.ABSTAINING if self.abstaining and status == Status.HELD else status)
