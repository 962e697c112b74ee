"""A monitor whose predicted gap is scripted by epoch, and prices of measuring that the test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gengap import GapMonitor
from lightning_gengap.measures.values import Values
from lightning_gengap.monitor.gap_monitor import monitors_of
from lightning_gengap.network.probe import Probe
from tests.lightning_models import put_measure
from tests.tiny_predictors import tiny_monitor, tiny_predictor, wide_feature

FAILS, ABSTAINS = "fails", "abstains"
KEY = "norm/log_product_spectral"


def scripted_monitor(monkeypatch: pytest.MonkeyPatch, gaps: Sequence[float | str], **changes: Any) -> GapMonitor:
    """Each measurement predicts the next of these gaps, or fails, or abstains."""
    ahead = iter(gaps)

    def measure(probe: Probe) -> Values:
        gap = next(ahead)
        if gap == FAILS:
            raise RuntimeError("broken measure")
        return {KEY: 100.0 if gap == ABSTAINS else float(gap)}

    put_measure(monkeypatch, "norm", measure)
    feature = wide_feature(KEY, "identity", 1.0, low=-1.0, high=1.0)
    predictor = tiny_predictor(measures=("norm",), intercept=0.0, features=(feature,))
    return tiny_monitor(**({"predictor": predictor} | changes))


class Prices(Callback):
    """Seconds per sample that a measurement is expected to take, by epoch."""

    def __init__(self, *prices: float) -> None:
        self.prices = prices

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        for monitor in monitors_of(trainer):
            monitor._state.budget.prices = [self.prices[trainer.current_epoch % len(self.prices)]]
