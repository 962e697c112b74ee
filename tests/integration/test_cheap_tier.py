"""The prediction at a price: fewer samples, then fewer epochs; what else is measured never moves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightning_gengap.monitor.schedule import Schedule
from tests.integration.scripted_gaps import Prices
from tests.lightning_models import EpochValues, MemoryLogger, TinyModel, fitted, loader
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")
STATUS, GAP = "gengap/status", "gengap/predicted_gap"
PREDICTED = (GAP, f"{GAP}_lower", f"{GAP}_upper", "gengap/predicted_test_accuracy", "gengap/in_support")


def large() -> Any:
    """So many samples that the probe can be halved twice."""
    return loader(2048, batch_size=512)


@pytest.mark.parametrize(
    ("price", "samples"), [(1e-6, 1024), (0.4 / 1024, 1024), (0.6 / 1024, 512), (0.6 / 512, 256), (0.6 / 256, 256)]
)
def test_the_probe_is_halved_until_half_a_second_pays_for_it(price: float, samples: int):
    monitor = tiny_monitor(budget=0.05)
    fitted(monitor, Prices(price), data=large(), max_epochs=1)
    assert monitor.values["probe_samples"] == samples


def test_beyond_that_epochs_are_left_out_until_their_allowances_pay_for_one():
    values = fitted(tiny_monitor(budget=0.05), Prices(1.3 / 256), data=large(), max_epochs=8)
    assert values(STATUS) == [0, 1, 1, 0, 1, 1, 0, 0]  # the first, every third, the last


def test_without_a_budget_everything_is_measured_whatever_it_costs():
    monitor = tiny_monitor(budget=None)
    assert fitted(monitor, Prices(1e6), data=large(), max_epochs=3)(STATUS) == [0, 0, 0]
    assert monitor.values["probe_samples"] == 1024


def test_fewer_samples_widen_the_interval():
    monitor = tiny_monitor(budget=0.05)
    fitted(monitor, Prices(0.6 / 512), data=large(), model=TinyModel(1e-3), max_epochs=1)
    whole = monitor.predictor.predict({**monitor.values, "probe_samples": 1024.0})
    assert 0.3 < monitor.values["train_accuracy"] < 1
    assert monitor.prediction.gap == whole.gap
    assert monitor.prediction.lower < whole.lower


def rows(values: EpochValues) -> list[Mapping[str, float]]:
    return [{key: row[key] for key in (*PREDICTED, "gengap/train_accuracy")} for row in values.rows]


def test_a_run_at_the_default_budget_predicts_what_one_without_budget_does():
    full, half, dear = 1e-6, 0.6 / 1024, 1.3 / 256
    free = fitted(tiny_monitor(budget=None), data=large(), max_epochs=8)
    paid = fitted(tiny_monitor(budget=0.05), Prices(full, half, dear, full), data=large(), max_epochs=8)
    assert paid(STATUS) == [0, 0, 1, 0, 0, 0, 1, 0]
    for epoch in (0, 3, 4, 7):
        assert rows(paid)[epoch] == rows(free)[epoch]


def test_optional_measures_that_come_and_go_change_no_prediction(monkeypatch: pytest.MonkeyPatch):
    plans = iter([(), ("norm",), ("margin", "perturbation"), (), ("margin",), ("perturbation", "norm")])
    alone = fitted(tiny_monitor(budget=0.05), max_epochs=6)
    monkeypatch.setattr(Schedule, "riders", lambda self, seconds, usual: next(plans))
    monkeypatch.setattr(Schedule, "others", lambda self, budget, riders, usual, last: ())
    monitor, logger = tiny_monitor(budget=0.05, measures=["norm", "perturbation"], verbosity="normal"), MemoryLogger()
    beside = fitted(monitor, max_epochs=6, logger=logger)
    assert rows(beside) == rows(alone)
    assert [step for step, _ in logger.series("gengap/norm/log_product_spectral")] == [7, 23]  # no held value
    assert [step for step, _ in logger.series("gengap/perturbation/augment_accuracy")] == [11, 23]


def test_optional_measures_wait_where_the_probe_is_halved():
    monitor, logger = tiny_monitor(budget=0.05, measures=["calibration"]), MemoryLogger()
    fitted(monitor, Prices(1e-6, 0.6 / 1024), data=large(), max_epochs=4, logger=logger)
    assert [step for step, _ in logger.series("gengap/calibration/entropy")] == [3, 11]
