"""What a logger can show beyond scalars: histograms and the gap's band; one function per logger type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_gengap.measures.keys import PREFIX

BINS = 64
DECADES = 8  # below the top eigenvalue: further down is round-off of float32 products
SPECTRUM = "curvature/spectrum"


@dataclass(frozen=True)
class Panels:
    """What one measurement adds to the scalars.

    Attributes:
        margins: signed normalized margins by layer; shape (examples,).
        contributions: accuracy fractions by feature.
        step: where the scalars of the same epoch stand.
        prefix: of every key.
        spectrum: eigenvalues of the curvature and how many directions each stands for, if it was measured.
    """

    margins: Mapping[str, Tensor]
    contributions: Mapping[str, float]
    step: int
    prefix: str = PREFIX
    spectrum: tuple[Tensor, Tensor] | None = None


@singledispatch
def lay_out(logger: Logger, prefix: str = PREFIX) -> None:
    """Prepare a logger once, before the first value; nothing by default."""


@singledispatch
def draw(logger: Logger, panels: Panels) -> None:
    """Show margin histograms by layer, the curvature's spectrum and the contributions; nothing by default."""


@lay_out.register
def _(logger: TensorBoardLogger, prefix: str = PREFIX) -> None:
    gap = _tag(logger, f"{prefix}predicted_gap")
    charts = {
        "predicted gap with its interval": ["Margin", [gap, f"{gap}_lower", f"{gap}_upper"]],
        "predicted and actual gap": ["Multiline", [gap, _tag(logger, f"{prefix}actual_gap")]],
    }
    logger.experiment.add_custom_scalars({prefix.removesuffix("/"): charts})


@draw.register
def _(logger: TensorBoardLogger, panels: Panels) -> None:
    for layer, values in panels.margins.items():
        counted = histogram(values)
        if counted is not None:
            counts, edges, finite = counted
            logger.experiment.add_histogram_raw(
                _tag(logger, f"{panels.prefix}margin/{layer}"),
                min=float(finite.min()),
                max=float(finite.max()),
                num=len(finite),
                sum=float(finite.sum()),
                sum_squares=float(finite.square().sum()),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=panels.step,
            )
    binned = spectral_histogram(panels.spectrum)
    if binned is not None:
        directions, edges = binned
        centres = (edges[1:] + edges[:-1]) / 2
        logger.experiment.add_histogram_raw(
            _tag(logger, f"{panels.prefix}{SPECTRUM}"),
            min=float(edges[0]),
            max=float(edges[-1]),
            num=float(directions.sum()),
            sum=float(directions @ centres),
            sum_squares=float(directions @ centres**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=directions.tolist(),
            global_step=panels.step,
        )
    if panels.contributions:
        table = "\n".join(["| feature | accuracy points |", "|---|---|", *_rows(panels.contributions)])
        logger.experiment.add_text(_tag(logger, f"{panels.prefix}contributions"), table, global_step=panels.step)


@lay_out.register
def _(logger: WandbLogger, prefix: str = PREFIX) -> None:
    logger.experiment.define_metric(_tag(logger, f"{prefix}*"), step_metric="trainer/global_step")


@draw.register
def _(logger: WandbLogger, panels: Panels) -> None:
    from wandb import Histogram

    content: dict[str, Any] = {}
    for layer, values in panels.margins.items():
        counted = histogram(values)
        if counted is not None:
            content[f"margin/{layer}"] = Histogram(np_histogram=(counted[0], counted[1]))
    binned = spectral_histogram(panels.spectrum)
    if binned is not None:
        content[SPECTRUM] = Histogram(np_histogram=binned)
    content |= {f"contributions/{name}": value for name, value in panels.contributions.items()}
    if content:
        tagged = {_tag(logger, f"{panels.prefix}{name}"): value for name, value in content.items()}
        logger.experiment.log({**tagged, "trainer/global_step": panels.step})


def histogram(values: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Tensor] | None:
    """Counts, bin edges and the finite values; None when there are none.

    At most 64 bins between the 1 % and 99 % quantiles; the tails are counted in the outermost bins, because a
    few distant margins would otherwise squeeze the rest into one bin.
    """
    finite = values[values.isfinite()].double()
    if len(finite) == 0:
        return None
    low, high = finite.quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # too narrow to be cut into bins
        reach = max(0.5, abs(low))
        low, high = low - reach, high + reach
    counts, edges = np.histogram(finite.clamp(low, high).numpy(), bins=BINS, range=(low, high))
    return counts, edges, finite


def spectral_histogram(
    spectrum: tuple[Tensor, Tensor] | None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Directions by log10 of the eigenvalue, and the bin edges; None without a positive eigenvalue.

    At most 64 bins over the 8 decades below the top eigenvalue; what lies below is counted in the lowest.
    """
    if spectrum is None or not len(spectrum[0]) or not float(spectrum[0].max()) > 0:
        return None
    eigenvalues, directions = (part.double().numpy() for part in spectrum)
    top = float(np.log10(eigenvalues.max()))
    logs = np.log10(np.clip(eigenvalues, 10 ** (top - DECADES), None))
    counts, edges = np.histogram(logs.clip(top - DECADES, top), BINS, (top - DECADES, top), weights=directions)
    return counts, edges


def _rows(contributions: Mapping[str, float]) -> list[str]:
    return [f"| {name} | {100 * value:+.1f} |" for name, value in contributions.items()]


def _tag(logger: TensorBoardLogger | WandbLogger, key: str) -> str:
    """The tag that the logger gives its own scalars, with the user's prefix."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}{key}" if logger._prefix else key
