"""What the monitor logs beside the measures' own keys: predictions, status, ages. No torch here."""

from __future__ import annotations

import math

from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.key import Key

PREFIX = "gengap/"

# For callbacks, and for expensive measures alone. Loggers get no value that is not of now.
AGES: dict[str, Key] = {
    f"age/{measure}": Key(
        "epochs", 0, math.inf, f"epochs since {measure} was measured; callbacks find its last values", measure=measure
    )
    for measure in dict.fromkeys(key.measure for key in MEASURED.values() if key.measure)
}

ESTIMATED = (
    "estimated_gap",
    "estimated_gap_lower",
    "estimated_gap_upper",
    "estimated_test_accuracy",
    "equivalent_hold_out",
)

PREDICTED: dict[str, Key] = {
    "predicted_gap": Key("fraction", 0, 1, "predicted train minus test accuracy", better="lower"),
    "predicted_gap_lower": Key("fraction", -1, 1, "lower end of its interval", better="lower"),
    "predicted_gap_upper": Key("fraction", 0, 1, "upper end of its interval", better="lower"),
    "predicted_test_accuracy": Key("fraction", 0, 1, "train accuracy minus predicted gap", better="higher"),
    "predicted_loss_gap": Key(
        "nats",
        0,
        math.inf,
        "predicted test minus train loss, where the predictor has a loss head",
        better="lower",
    ),
    "estimated_gap": Key(
        "fraction",
        -1,
        1,
        "train minus test accuracy by the prediction and all evidence: held-out samples, validations, other models",
        better="lower",
    ),
    "estimated_gap_lower": Key("fraction", -1, 1, "lower end of its interval", better="lower"),
    "estimated_gap_upper": Key("fraction", -1, 1, "upper end of its interval", better="lower"),
    "estimated_test_accuracy": Key("fraction", 0, 1, "train accuracy minus estimated gap", better="higher"),
    "equivalent_hold_out": Key(
        "samples",
        0,
        math.inf,
        "how many held-out samples tell the test accuracy as well as the estimate",
        better="higher",
    ),
    "in_support": Key("0 or 1", 0, 1, "1: the predictor was fitted on models like this one", better="higher"),
    "status": Key(
        "0 to 5",
        0,
        5,
        "0 fresh, 1 not measured now, 2 failed, 3 abstaining for now, 4 switched off, 5 abstaining for good",
    ),
    "actual_gap": Key("fraction", -1, 1, "train accuracy minus validation accuracy of the same epoch", better="lower"),
    "overhead": Key("share", 0, math.inf, "time spent measuring, start-up included, over time spent training, so far"),
}
