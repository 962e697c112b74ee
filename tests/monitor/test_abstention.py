"""Whether an abstention may pass, and in which words it is said that it does not."""

from __future__ import annotations

from lightning_gengap.monitor.abstention import obstacles
from lightning_gengap.predictors.predictor import Prediction

UNKNOWN = "the number of training samples is unknown"


def abstention(*missing: str) -> Prediction:
    return Prediction(0.2, 0.0, 1.0, False, True, missing, {}, missing=missing)


def test_an_unknown_number_of_samples_is_one_reason_whatever_it_makes_absent():
    absences = {"difficulty/*_extrapolated": UNKNOWN, "train_samples": "the data can only be iterated"}
    (reason,) = obstacles(abstention("difficulty/ridge_extrapolated", "train_samples"), absences)
    assert reason.startswith(f"{UNKNOWN}: the data can only be iterated. Train on one DataLoader")


def test_what_is_extrapolated_has_that_reason_also_after_a_resume():
    (reason,) = obstacles(
        abstention("difficulty/ridge_extrapolated", "train_samples"), {"train_samples": "of a stream"}
    )
    assert reason.startswith(f"{UNKNOWN}: of a stream. Train")


def test_each_other_reason_is_said_with_what_it_makes_absent():
    absences = {"margin/*": "the inputs are not floats", "train_samples": "2 loaders are combined"}
    margins, size = obstacles(abstention("margin/input/median", "train_samples"), absences)
    assert margins.startswith("it needs margin/input/median, which is absent: the inputs are not floats. Pass")
    assert size.startswith(f"{UNKNOWN}: 2 loaders are combined. Train")


def test_what_has_no_reason_may_wait_for_a_measure_that_is_yet_to_know_more():
    missing = abstention("copies/moved_accuracy", "margin/input/median")
    absences = {"margin/*": "the inputs are not floats"}
    assert len(obstacles(missing, absences)) == 2
    (reason,) = obstacles(missing, absences, growing=True)
    assert reason.startswith("it needs margin/input/median")
