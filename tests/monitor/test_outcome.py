"""What a prediction is doubted for."""

from __future__ import annotations

import pytest

from lightning_gengap import load_predictor
from lightning_gengap.monitor.outcome import doubts_of_references
from tests.tiny_predictors import tiny_predictor


@pytest.mark.parametrize(("share", "doubts"), [(0.49, ("few_references",)), (0.5, ()), (1.0, ()), (None, ())])
def test_references_that_know_few_samples_yet_are_a_reason_for_doubt(share: float | None, doubts: tuple[str, ...]):
    values = {} if share is None else {"reference/share": share}
    assert doubts_of_references(values, load_predictor("default_v4")) == doubts
    assert doubts_of_references(values, tiny_predictor()) == ()


def test_they_widen_the_interval():
    predictor = load_predictor("default_v4")
    values = {"train_accuracy": 0.95, "train_loss": 0.1, "classes": 2.0, "train_samples": 1000.0}
    values |= {"reference/best_accuracy": 0.85, "agreement/best": 0.85, "agreement/by_reference": 0.85**2}
    values |= {"agreement/reference_by_accuracy": 0.85 * 0.95, "agreement/order": 0.8}
    sure, doubted = predictor.predict(values), predictor.predict(values, ["few_references"])
    assert sure.in_support
    assert not doubted.in_support
    assert doubted.gap == sure.gap
    assert doubted.upper - doubted.gap == pytest.approx(2 * (sure.upper - sure.gap))
