"""What a logger can show beyond scalars: margin histograms and the gap's band; one function per logger type."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_gengap.keys import PREFIX

BINS = 64


@singledispatch
def lay_out(logger: Logger) -> None:
    """Prepare a logger once, before the first value; nothing by default."""


@singledispatch
def draw(logger: Logger, margins: Mapping[str, Tensor], contributions: Mapping[str, float], step: int) -> None:
    """Show margin histograms by layer and the prediction's contributions at `step`; nothing by default."""


@lay_out.register
def _(logger: TensorBoardLogger) -> None:
    keys = [_tag(logger, f"predicted_gap{suffix}") for suffix in ("", "_lower", "_upper")]
    against = [_tag(logger, "predicted_gap"), _tag(logger, "actual_gap")]
    logger.experiment.add_custom_scalars(
        {"gengap": {"predicted gap, 90 % interval": ["Margin", keys], "predicted and actual gap": ["Multiline", against]}}
    )


@draw.register
def _(logger: TensorBoardLogger, margins: Mapping[str, Tensor], contributions: Mapping[str, float], step: int) -> None:
    for layer, values in margins.items():
        counted = histogram(values)
        if counted is not None:
            counts, edges, finite = counted
            logger.experiment.add_histogram_raw(
                _tag(logger, f"margin/{layer}"),
                min=float(finite.min()),
                max=float(finite.max()),
                num=len(finite),
                sum=float(finite.sum()),
                sum_squares=float(finite.square().sum()),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )
    if contributions:
        table = "\n".join(["| feature | accuracy points |", "|---|---|", *_rows(contributions)])
        logger.experiment.add_text(_tag(logger, "contributions"), table, global_step=step)


@lay_out.register
def _(logger: WandbLogger) -> None:
    logger.experiment.define_metric(_tag(logger, "*"), step_metric="trainer/global_step")


@draw.register
def _(logger: WandbLogger, margins: Mapping[str, Tensor], contributions: Mapping[str, float], step: int) -> None:
    from wandb import Histogram

    panels: dict[str, Any] = {}
    for layer, values in margins.items():
        counted = histogram(values)
        if counted is not None:
            panels[_tag(logger, f"margin/{layer}")] = Histogram(np_histogram=(counted[0], counted[1]))
    panels |= {_tag(logger, f"contributions/{name}"): value for name, value in contributions.items()}
    if panels:
        logger.experiment.log({**panels, "trainer/global_step": step})


def histogram(values: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Tensor] | None:
    """Counts, bin edges and the finite values; None when there are none.

    At most 64 bins between the 1 % and 99 % quantiles; the tails are counted in the outermost bins, because a
    few distant margins would otherwise squeeze the rest into one bin.
    """
    finite = values[values.isfinite()].double()
    if len(finite) == 0:
        return None
    low, high = finite.quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(finite.clamp(low, high).numpy(), bins=BINS, range=(low, high))
    return counts, edges, finite


def _rows(contributions: Mapping[str, float]) -> list[str]:
    return [f"| {name} | {100 * value:+.1f} |" for name, value in contributions.items()]


def _tag(logger: Any, name: str) -> str:
    """The tag that the logger's own scalars would get, prefix included."""
    key = f"{PREFIX}{name}"
    return f"{logger._prefix}{logger.group_separator}{key}" if logger._prefix else key
