"""What the monitor logs beside the measures' own keys: predictions, status, ages. No torch here."""

from __future__ import annotations

import math

from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.key import Key

PREFIX = "gengap/"

# Logged for expensive measures alone. All other values are as old as the prediction.
AGES: dict[str, Key] = {
    f"age/{measure}": Key(
        "epochs", 0, math.inf, f"epochs since {measure} was measured; its keys hold since", measure=measure
    )
    for measure in dict.fromkeys(key.measure for key in MEASURED.values() if key.measure)
}

PREDICTED: dict[str, Key] = {
    "predicted_gap": Key("fraction", 0, 1, "predicted train minus test accuracy"),
    "predicted_gap_lower": Key("fraction", -1, 1, "lower end of its interval"),
    "predicted_gap_upper": Key("fraction", 0, 1, "upper end of its interval"),
    "predicted_test_accuracy": Key("fraction", 0, 1, "train accuracy minus predicted gap"),
    "predicted_loss_gap": Key(
        "nats", 0, math.inf, "predicted test minus train loss, where the predictor has a loss head"
    ),
    "recalibrated_gap": Key(
        "fraction", 0, 1, "predicted gap, moved towards the gaps observed in this run's validations"
    ),
    "in_support": Key("0 or 1", 0, 1, "1: the predictor was fitted on models like this one"),
    "status": Key("0 to 4", 0, 4, "0 fresh, 1 held by schedule or budget, 2 held after a failure, 3 abstaining, 4 off"),
    "actual_gap": Key("fraction", -1, 1, "train accuracy minus validation accuracy, in epochs with validation"),
    "overhead": Key("share", 0, math.inf, "time spent measuring over time spent training, so far"),
}
