"""The figure of a one-family card: held-out predictions, coverage of their interval, mean contributions."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import converged, stages
from lightning_gengap.zoo.evaluate.held_out import HeldOut, part_of
from lightning_gengap.zoo.evaluate.one_family import FEWEST_CONVERGED, coverage_and_width, over_runs
from lightning_gengap.zoo.report.figures import coverage, diagonal, new_figure, save
from lightning_gengap.zoo.table import Floats, Mask, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Band:
    """The interval on some of the held-out rows.

    Attributes:
        coverage: share inside, [value, low, high] over draws of runs.
        width: mean width in accuracy points.
    """

    name: str
    rows: int
    runs: int
    coverage: list[float]
    width: float


@dataclass(frozen=True)
class Shown:
    """The numbers of the figure, in accuracy points; arrays hold one value per held-out row.

    Attributes:
        contributions: mean absolute ones by feature, the largest first.
    """

    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    converged: Mask
    abstained: Mask
    bands: tuple[Band, ...]
    contributions: dict[str, float]


def shown(predictor: Predictor, table: Table, held: HeldOut) -> Shown:
    """The numbers that `draw` draws. All are held out by run, except the contributions, which are those of the card."""
    settled = converged(table)[held.rows]
    chosen = {"all snapshots": np.ones(len(held.rows), bool)}
    chosen |= {name: mask[held.rows] for name, mask in stages(table).items() if name.startswith("train accuracy")}
    chosen["converged"] = settled
    moved = predictor.scores["contributions"]
    return Shown(
        actual=100 * table.numbers("gap.accuracy")[held.rows],
        predicted=100 * held.gap,
        lower=100 * held.lower,
        upper=100 * held.upper,
        converged=settled,
        abstained=held.abstained,
        bands=_bands(table, held, chosen),
        contributions=dict(sorted(moved.items(), key=lambda item: -item[1])),
    )


def draw(shown: Shown) -> bytes:
    """The figure as a PNG file, the same bytes every time."""
    figure = new_figure(12, 4)
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 2.4, 2.4))
    _predicted(left, shown)
    names = [f"{band.name}\n{band.rows} of {band.runs} runs, width {band.width:.1f}" for band in shown.bands]
    coverage(middle, [(name, band.coverage) for name, band in zip(names, shown.bands, strict=True)])
    middle.set_xlabel("share inside the 90 % interval", fontsize=8)
    # Long names stand on the bars, for beside them they would take half of the panel.
    places = [-place for place in range(len(shown.contributions))]
    right.barh(places, list(shown.contributions.values()), height=0.35, color="C0")
    for place, name in zip(places, shown.contributions, strict=True):
        right.text(0, place + 0.22, name, fontsize=8, va="bottom")
    right.set_yticks([])
    right.set_ylim(top=0.6)
    right.grid(alpha=0.2)
    right.set_xlabel("mean absolute contribution (points)", fontsize=8)
    for axis in (left, middle, right):
        axis.tick_params("x", labelsize=8)
    file = BytesIO()
    save(figure, file, dpi=76)
    return file.getvalue()


def _bands(table: Table, held: HeldOut, chosen: dict[str, Mask]) -> tuple[Band, ...]:
    among = np.zeros(len(table), bool)
    among[held.rows] = True
    draws, runs = over_runs(table, among), table.words("run")[held.rows]
    bands = []
    for name, of in chosen.items():
        if of.sum() >= FEWEST_CONVERGED:
            coverage, width = coverage_and_width(table, draws, part_of(held, of))
            if coverage and width:  # undefined where no draw holds one of its runs
                bands.append(Band(name, int(of.sum()), len(set(runs[of])), coverage, width[0]))
    return tuple(bands)


def _predicted(axis: Axes, shown: Shown) -> None:
    kinds = (
        ("other snapshots", "C0", "lightsteelblue", ~shown.converged & ~shown.abstained),
        ("converged", "C1", "C1", shown.converged & ~shown.abstained),
        ("abstained", "C3", "mistyrose", shown.abstained),
    )
    for place, (label, colour, bar, of) in enumerate(kinds):
        if of.any():
            bars = (shown.actual[of], shown.lower[of], shown.upper[of])
            axis.vlines(*bars, color=bar, linewidth=0.8, zorder=1 + place / 10)
            axis.scatter(shown.actual[of], shown.predicted[of], s=6, color=colour, label=label, zorder=2 + place / 10)
    ends = diagonal(shown.actual, shown.predicted)
    axis.plot(ends, ends, color="black", linewidth=0.8, zorder=1.9)
    axis.set_xlabel("actual gap (accuracy points)", fontsize=8)
    axis.set_ylabel("predicted, held out by run", fontsize=8)
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(alpha=0.2)
