"""What arrives in real loggers: the scalars in every one, at Lightning's own steps; histograms where shown."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_gengap.monitor import charts
from lightning_gengap.monitor.charts import BINS
from lightning_gengap.monitor.logged_keys import ESTIMATED
from tests.lightning_models import ManualModel, MemoryLogger, TinyModel, fitted
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures

SCALARS = {
    "gengap/predicted_gap",
    "gengap/predicted_gap_lower",
    "gengap/predicted_gap_upper",
    "gengap/predicted_test_accuracy",
    *(f"gengap/{key}" for key in ESTIMATED),
    "gengap/in_support",
    "gengap/status",
    "gengap/train_accuracy",
    "gengap/train_loss",
    "gengap/overhead",
    # of the measures that are taken wherever more than the prediction is shown
    "gengap/margin/h1/median",
    "gengap/margin/output/median",
    "gengap/norm/log_sum_spectral",
    "gengap/curvature/soft_rank",
}
USUAL = ("gengap/margin/", "gengap/norm/", "gengap/curvature/")
LAYERS = {"gengap/margin/input", "gengap/margin/h1", "gengap/margin/h2", "gengap/margin/h3"}
DRAWN = LAYERS | {"gengap/curvature/spectrum"}
STEPS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "plain": ({}, [3, 7]),
    "accumulated": ({"accumulate_grad_batches": 3}, [1, 3]),
    "manual, two optimizers": ({"model": ManualModel}, [3, 7]),
}


def fit_with(*loggers: Logger, model: type[TinyModel] = TinyModel, **arguments: Any) -> None:
    """Two epochs with histograms."""
    fitted(tiny_monitor(verbosity="normal"), model=model(), logger=list(loggers), **arguments)


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0, "scalars": 0})
    return accumulator.Reload()


@pytest.mark.parametrize("case", STEPS)
def test_tensorboard_has_histograms_at_the_steps_of_the_scalars(tmp_path: Path, case: str):
    arguments, steps = STEPS[case]
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    fit_with(logger, **arguments)
    written = events(tmp_path)
    assert set(written.Tags()["scalars"]) >= SCALARS
    assert set(written.Tags()["histograms"]) == DRAWN
    for key in SCALARS:
        assert [event.step for event in written.Scalars(key)] == steps
    for key in DRAWN:
        assert [event.step for event in written.Histograms(key)] == steps


def test_tensorboard_histograms_hold_the_margins_of_layers_and_over_the_spectral_complexity(tmp_path: Path):
    monitor = tiny_monitor(verbosity="normal", measures=["bartlett"])
    fitted(monitor, logger=TensorBoardLogger(tmp_path, name=None, version=""))
    written = events(tmp_path)
    assert set(written.Tags()["histograms"]) == DRAWN | {"gengap/margin/bartlett"}
    for key, inside in (
        ("margin/h1", ("margin/h1/lower_whisker", "margin/h1/upper_whisker")),
        ("margin/bartlett", ("bartlett/q05", "bartlett/median")),
    ):
        last = written.Histograms(f"gengap/{key}")[-1].histogram_value
        assert last.num == sum(last.bucket) == 64
        assert len(last.bucket_limit) == BINS
        low, high = (monitor.values[name] for name in inside)
        assert last.min <= low <= high <= last.max


def test_tensorboard_shows_band_and_contributions(tmp_path: Path):
    fit_with(TensorBoardLogger(tmp_path, name=None, version="", prefix="mine"))
    written = events(tmp_path)
    assert {f"mine-{key}" for key in SCALARS} <= set(written.Tags()["scalars"])
    assert set(written.Tags()["histograms"]) == {f"mine-{key}" for key in DRAWN}
    layout = layout_pb2.Layout.FromString(written.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (category,) = layout.category
    band, against = category.chart
    series = band.margin.series[0]
    gap = "mine-gengap/predicted_gap"
    assert (series.value, series.lower, series.upper) == (gap, f"{gap}_lower", f"{gap}_upper")
    assert list(against.multiline.tag) == [gap, "mine-gengap/actual_gap"]
    (text,) = [key for key in written.Tags()["tensors"] if "contributions" in key]
    assert text.startswith("mine-gengap/contributions")
    assert "difficulty/ridge_accuracy" in str(written.Tensors(text)[0].tensor_proto.string_val[0])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B without network, account or console."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("case", STEPS)
def test_wandb_gets_histograms_and_contributions_at_the_steps_of_the_scalars(tmp_path: Path, case: str):
    wandb = pytest.importorskip("wandb")
    arguments, steps = STEPS[case]
    logger = WandbLogger(save_dir=tmp_path, settings=wandb.Settings(console="off"))
    sent: list[dict[str, Any]] = []
    original = logger.experiment.log
    logger.experiment.log = lambda values, *more, **others: (sent.append(values), original(values, *more, **others))
    try:
        fit_with(logger, **arguments)
    finally:
        wandb.finish()
    panels = [values for values in sent if set(values) >= LAYERS]
    assert [values["trainer/global_step"] for values in panels] == steps
    assert [row["trainer/global_step"] for row in sent if set(row) >= SCALARS] == steps
    for values in panels:
        assert all(isinstance(values[key], wandb.Histogram) for key in LAYERS)
        assert sum(values["gengap/margin/h1"].histogram) == 64
        assert "gengap/contributions/difficulty/ridge_accuracy" in values
    assert next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")).stat().st_size > 0


def test_csv_has_the_scalars(tmp_path: Path):
    fit_with(CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gengap/predicted_gap"]]
    assert [int(row["step"]) for row in rows] == [3, 7]
    assert set(rows[0]) >= SCALARS
    assert all(row[key] for row in rows for key in SCALARS)


@pytest.mark.parametrize("case", STEPS)
def test_any_other_logger_has_the_scalars_alone(case: str):
    arguments, steps = STEPS[case]
    logger = MemoryLogger()
    fit_with(logger, **arguments)
    for key in SCALARS:
        assert [step for step, _ in logger.series(key)] == steps
    others = {key for _, row in logger.rows for key in row if key.startswith("gengap/")} - SCALARS
    assert all(key.startswith(USUAL) for key in others)


def test_several_loggers_get_the_same(tmp_path: Path):
    memory = MemoryLogger()
    fit_with(memory, TensorBoardLogger(tmp_path, name=None, version=""), CSVLogger(tmp_path, name="csv"))
    written = events(tmp_path)
    for key in SCALARS:
        assert [(event.step, pytest.approx(event.value)) for event in written.Scalars(key)] == memory.series(key)


def test_quiet_writes_no_histograms(tmp_path: Path):
    fitted(tiny_monitor(verbosity="quiet"), logger=TensorBoardLogger(tmp_path, name=None, version=""))
    assert events(tmp_path).Tags()["histograms"] == []


def test_full_logs_every_measured_key():
    logger, monitor = MemoryLogger(), tiny_monitor(verbosity="full")
    fitted(monitor, logger=logger)
    logged = {key.removeprefix("gengap/") for _, row in logger.rows for key in row}
    assert set(monitor.values) <= logged


def test_a_logger_that_cannot_draw_is_said_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(values: torch.Tensor) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr(charts, "histogram", fail)
    with pytest.warns(UserWarning, match="could not log to TensorBoardLogger: RuntimeError: no space left") as caught:
        fit_with(TensorBoardLogger(tmp_path, name=None, version=""))
    assert sum("could not log" in str(warning.message) for warning in caught) == 1
    assert set(events(tmp_path).Tags()["scalars"]) >= SCALARS
