"""What a logger can show beyond scalars: histograms and the gap's band. Each type of logger has its two functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gengap.measures.values import Figure, Histogram, Spectrum
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.namespaces import TENSORBOARD_LOGGERS, WANDB_LOGGERS

if TYPE_CHECKING:  # at run time the logger may be of either tree
    from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

BINS = 64
DECADES = 8  # below the top eigenvalue; smaller ones are round-off of float32 products
Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Panels:
    """What one measurement adds to the scalars: figures by key, and accuracy fractions by feature.

    `step` is that of the scalars of the same epoch, and `prefix` that of every key.
    """

    figures: Mapping[str, Figure]
    contributions: Mapping[str, float]
    step: int
    prefix: str = PREFIX


@singledispatch
def lay_out(logger: Logger, prefix: str = PREFIX) -> None:
    """Prepare a logger once, before the first value. By default nothing."""


@singledispatch
def draw(logger: Logger, panels: Panels) -> None:
    """Show histograms, spectra and contributions. By default nothing."""


def _lay_out_in_tensorboard(logger: TensorBoardLogger, prefix: str = PREFIX) -> None:
    gap = _tag(logger, f"{prefix}predicted_gap")
    charts = {
        "predicted gap with its interval": ["Margin", [gap, f"{gap}_lower", f"{gap}_upper"]],
        "predicted and actual gap": ["Multiline", [gap, _tag(logger, f"{prefix}actual_gap")]],
    }
    logger.experiment.add_custom_scalars({prefix.removesuffix("/"): charts})


def _draw_in_tensorboard(logger: TensorBoardLogger, panels: Panels) -> None:
    for key, binned in _binned(panels).items():
        logger.experiment.add_histogram_raw(
            _tag(logger, f"{panels.prefix}{key}"),
            min=binned.low,
            max=binned.high,
            num=float(binned.counts.sum()),
            sum=binned.total,
            sum_squares=binned.squares,
            bucket_limits=binned.edges[1:].tolist(),
            bucket_counts=binned.counts.tolist(),
            global_step=panels.step,
        )
    if panels.contributions:
        rows = [f"| {name} | {100 * value:+.1f} |" for name, value in panels.contributions.items()]
        table = "\n".join(["| feature | accuracy points |", "|---|---|", *rows])
        logger.experiment.add_text(_tag(logger, f"{panels.prefix}contributions"), table, global_step=panels.step)


def _lay_out_in_wandb(logger: WandbLogger, prefix: str = PREFIX) -> None:
    logger.experiment.define_metric(_tag(logger, f"{prefix}*"), step_metric="trainer/global_step")


def _draw_in_wandb(logger: WandbLogger, panels: Panels) -> None:
    import wandb

    content: dict[str, Any] = {f"contributions/{name}": value for name, value in panels.contributions.items()}
    for key, binned in _binned(panels).items():
        content[key] = wandb.Histogram(np_histogram=(binned.counts, binned.edges))
    if content:
        tagged = {_tag(logger, f"{panels.prefix}{name}"): value for name, value in content.items()}
        logger.experiment.log({**tagged, "trainer/global_step": panels.step})


for kind in TENSORBOARD_LOGGERS:
    lay_out.register(kind, _lay_out_in_tensorboard)
    draw.register(kind, _draw_in_tensorboard)
for kind in WANDB_LOGGERS:
    lay_out.register(kind, _lay_out_in_wandb)
    draw.register(kind, _draw_in_wandb)


class Binned(NamedTuple):
    """A figure cut into bins, with extremes, sum and sum of squares of what was counted.

    There is one edge more than there are counts.
    """

    counts: Floats
    edges: Floats
    low: float
    high: float
    total: float
    squares: float


def _binned(panels: Panels) -> dict[str, Binned]:
    """The figures in which there is something to draw, by key."""
    found = {
        key: histogram(figure.samples) if isinstance(figure, Histogram) else spectral_histogram(figure)
        for key, figure in panels.figures.items()
    }
    return {key: binned for key, binned in found.items() if binned is not None}


def histogram(values: Tensor) -> Binned | None:
    """Bins between the 1 % and 99 % quantiles of the finite values; None when there are no such values.

    The tails are counted in the outermost bins. Otherwise a few distant margins would squeeze the rest into one bin.
    """
    finite = values[values.isfinite()].double()
    if len(finite) == 0:
        return None
    low, high = finite.quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # too narrow to be cut into bins
        reach = max(0.5, abs(low))
        low, high = low - reach, high + reach
    counts, edges = np.histogram(finite.clamp(low, high).numpy(), bins=BINS, range=(low, high))
    extremes = float(finite.min()), float(finite.max())
    return Binned(counts, edges, *extremes, float(finite.sum()), float(finite.square().sum()))


def spectral_histogram(spectrum: Spectrum) -> Binned | None:
    """The number of directions by log10 of their eigenvalue; None without a positive eigenvalue.

    The bins cover the 8 decades below the top eigenvalue. Smaller eigenvalues are counted in the lowest bin.
    """
    if not len(spectrum.eigenvalues) or not float(spectrum.eigenvalues.max()) > 0:
        return None
    eigenvalues, directions = (part.double().numpy() for part in (spectrum.eigenvalues, spectrum.directions))
    top = float(np.log10(eigenvalues.max()))
    logs = np.log10(np.clip(eigenvalues, 10 ** (top - DECADES), None))
    counts, edges = np.histogram(logs.clip(top - DECADES, top), BINS, (top - DECADES, top), weights=directions)
    centres = (edges[1:] + edges[:-1]) / 2
    return Binned(counts, edges, float(edges[0]), float(edges[-1]), float(counts @ centres), float(counts @ centres**2))


def _tag(logger: TensorBoardLogger | WandbLogger, key: str) -> str:
    """The tag that the logger gives its own scalars, with the user's prefix."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}{key}" if logger._prefix else key
