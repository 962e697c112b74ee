from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_gengap.measures.values import Histogram, Spectrum
from lightning_gengap.monitor.charts import BINS, DECADES, Panels, draw, histogram, lay_out, spectral_histogram
from tests.lightning_models import MemoryLogger


def test_every_finite_value_is_counted_once():
    values = torch.cat([torch.randn(500), torch.tensor([torch.nan, torch.inf, -torch.inf])])
    counted = histogram(values)
    counts, edges = counted.counts, counted.edges
    assert counts.sum() == 500
    assert len(counts) == BINS == len(edges) - 1
    assert np.isfinite(edges).all()


def test_distant_values_do_not_squeeze_the_rest():
    counted = histogram(torch.cat([torch.linspace(0, 1, 1000), torch.tensor([1e6, -1e6])]))
    counts, edges = counted.counts, counted.edges
    assert edges[0] >= 0
    assert edges[-1] <= 1
    assert counts.sum() == 1002
    assert counted.high == 1e6


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 1e30])
@pytest.mark.parametrize("count", [1, 50])
def test_equal_values_have_a_histogram(value: float, count: int):
    counted = histogram(torch.full((count,), value))
    assert counted.counts.sum() == counted.counts.max() == count
    assert counted.edges[0] < value < counted.edges[-1]


def test_values_that_differ_by_rounding_have_a_histogram():
    counted = histogram(torch.tensor([1.0, 1.0 + 1e-7]).repeat(20))
    assert counted.counts.sum() == 40


@pytest.mark.parametrize("values", [torch.zeros(0), torch.full((3,), torch.nan)])
def test_nothing_finite_has_no_histogram(values: torch.Tensor):
    assert histogram(values) is None


SPECTRUM = Spectrum(torch.tensor([1.0, 1e-3]).double(), torch.tensor([2.0, 6.0]).double())
PANELS = Panels(
    {"margin/h1": Histogram(torch.randn(30)), "margin/h2": Histogram(torch.full((30,), torch.nan))},
    {"intercept": 0.1},
    step=3,
)


def test_an_unknown_logger_is_left_alone():
    logger = MemoryLogger()
    lay_out(logger)
    draw(logger, PANELS)
    assert logger.rows == []


class Spy:
    """Stands for an experiment and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def spied(logger: TensorBoardLogger | WandbLogger, panels: Panels) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The calls of the logger's experiment in which the panels are drawn."""
    spy = Spy()
    logger._experiment = spy  # type: ignore[assignment]
    draw(logger, panels)
    return spy.calls


@pytest.mark.parametrize(("prefix", "start"), [("", "gengap/"), ("run", "run-gengap/")])
def test_tags_are_those_of_the_loggers_own_scalars(tmp_path: Path, prefix: str, start: str):
    calls = spied(TensorBoardLogger(tmp_path, prefix=prefix), PANELS)
    assert [(name, args[0], kwargs["global_step"]) for name, args, kwargs in calls] == [
        ("add_histogram_raw", f"{start}margin/h1", 3),
        ("add_text", f"{start}contributions", 3),
    ]
    assert "| intercept | +10.0 |" in calls[1][1][1]


def test_without_contributions_no_text_is_written(tmp_path: Path):
    assert spied(TensorBoardLogger(tmp_path), Panels({}, {}, 0)) == []


def test_a_spectrum_is_counted_by_decade_with_everything_far_below_in_the_lowest_bin():
    eigenvalues = torch.tensor([100.0, 1.0, 1e-3, 1e-30, 0.0], dtype=torch.float64)
    directions = torch.tensor([1.0, 2.5, 4.0, 8.0, 16.0], dtype=torch.float64)
    counted = spectral_histogram(Spectrum(eigenvalues, directions))
    counts, edges = counted.counts, counted.edges
    assert len(counts) == BINS == len(edges) - 1
    assert (edges[0], edges[-1]) == pytest.approx((2 - DECADES, 2))
    assert counts.sum() == pytest.approx(31.5)
    assert (counts[0], counts[-1]) == (24, 1)
    for place, count in ((0.0, 2.5), (-3.0, 4.0)):
        assert counts[np.searchsorted(edges, place + 1e-9) - 1] == count


@pytest.mark.parametrize("eigenvalues", [[], [0.0, 0.0]])
def test_a_spectrum_without_a_positive_eigenvalue_has_no_histogram(eigenvalues: list[float]):
    assert spectral_histogram(Spectrum(torch.tensor(eigenvalues), torch.ones(len(eigenvalues)))) is None


def test_a_measured_spectrum_is_drawn_under_the_prefix(tmp_path: Path):
    panels = Panels({"curvature/spectrum": SPECTRUM}, {}, step=5, prefix="gengap/mine/")
    ((name, args, kwargs),) = spied(TensorBoardLogger(tmp_path, prefix="run"), panels)
    assert (name, args[0], kwargs["global_step"]) == (
        "add_histogram_raw",
        "run-gengap/mine/curvature/spectrum",
        5,
    )
    assert kwargs["num"] == sum(kwargs["bucket_counts"]) == 8
    assert len(kwargs["bucket_limits"]) == BINS


def test_wandb_gets_the_spectrum_as_a_histogram(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    calls = spied(WandbLogger(save_dir=tmp_path, offline=True), Panels({"curvature/spectrum": SPECTRUM}, {}, step=5))
    (sent,) = [args[0] for name, args, _ in calls if name == "log"]
    assert sent["trainer/global_step"] == 5
    assert isinstance(sent["gengap/curvature/spectrum"], wandb.Histogram)
    assert sum(sent["gengap/curvature/spectrum"].histogram) == 8
