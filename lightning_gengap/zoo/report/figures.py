"""The figures of an evaluation as PNG files. Only here is matplotlib imported, and only when a figure is drawn."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.table import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def drawable() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require() -> None:
    """Refuse early where figures are asked for and matplotlib is not installed."""
    if not drawable():
        raise ConfigurationError(
            "figures",
            got="no matplotlib",
            expected="matplotlib to draw with",
            remedy='`pip install "lightning-gengap[report]"`, or leave the figures out with --no-figures.',
        )


def draw(assessment: Assessment, folder: Path) -> list[str]:
    """Write the figures that the evaluation has the numbers for, and return their file names."""
    drawn = []
    pictures: dict[str, Callable[[Assessment, Figure], bool]] = {
        "predicted_by_family": lambda a, f: _predicted(a, f, "recipe.family"),
        "predicted_by_data_set": lambda a, f: _predicted(a, f, "recipe.source"),
        "coverage": _coverage,
        "contributions": _contributions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        figure = new_figure(8, 5)
        if picture(assessment, figure):
            save(figure, folder / f"{name}.png")
            drawn.append(f"{name}.png")
    return drawn


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, or a refusal where matplotlib is not installed."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, file: Path | BytesIO, dpi: int = 110) -> None:
    """Write a figure as PNG, the same bytes every time."""
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})


def intervals(axis: Axes, bars: list[tuple[str, Any]]) -> None:
    """A dot with its 95 % interval per line, the first on top."""
    for place, (_, (value, low, high)) in enumerate(bars):
        axis.plot([low, high], [-place, -place], color="C0", linewidth=1.5)
        axis.plot(value, -place, marker="o", markersize=4, color="C0")
    axis.set_yticks([-place for place in range(len(bars))], [name for name, _ in bars], fontsize=8)
    axis.grid(alpha=0.2)


def coverage(axis: Axes, bars: list[tuple[str, Any]]) -> None:
    """Shares of rows inside the 90 % interval, one per line, beside the nominal level."""
    intervals(axis, bars)
    axis.axvline(0.9, color="grey", linewidth=0.8)
    axis.set_xlim(right=1.02)


def diagonal(actual: Floats, predicted: Floats) -> list[float]:
    """Both ends of the line where predictions are right; it begins at zero or below."""
    return [min(0.0, float(actual.min())), float(max(actual.max(), predicted.max()))]


def _predicted(assessment: Assessment, figure: Figure, column: str) -> bool:
    """Predicted against actual gaps of held-out tasks, one panel per family or data set."""
    held = assessment.predictions.get("by task", {}).get(assessment.setting.specification.name)
    if held is None:
        return False
    table = assessment.setting.table
    actual, kinds = 100 * table.numbers("gap.accuracy")[held.rows], table.words(column)[held.rows]
    names = sorted(set(kinds.tolist()))
    width = int(np.ceil(np.sqrt(len(names))))
    axes = figure.subplots(-(-len(names) // width), width, sharex=True, sharey=True, squeeze=False).ravel()
    ends = diagonal(actual, 100 * held.gap)
    for axis, name in zip(axes, names, strict=False):
        of = kinds == name
        error = np.abs(actual - 100 * held.gap)[of].mean()
        for colour, label, chosen in (("C0", "predicted", ~held.abstained), ("C3", "abstained", held.abstained)):
            part = of & chosen
            if part.any():
                axis.scatter(actual[part], 100 * held.gap[part], s=6, alpha=0.5, color=colour, label=label)
        axis.plot(ends, ends, color="grey", linewidth=0.8)
        axis.set_title(f"{name}: error {error:.1f}", fontsize=9)
        axis.grid(alpha=0.2)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    if (held.abstained & (kinds == names[0])).any():
        axes[0].legend(fontsize=7)
    figure.supxlabel("actual gap (accuracy points)")
    figure.supylabel("predicted gap, held out by task")
    return True


def _coverage(assessment: Assessment, figure: Figure) -> bool:
    """Coverage of the 90 % interval, abstentions aside, per split and per held-out group."""
    bars: list[tuple[str, Any]] = []
    for split, result in assessment.report["splits"].items():
        if result["rows"]:
            bars.append((split, result["coverage"]["kept"]))
            kind = split.removeprefix("leave one ").removesuffix(" out")
            groups = result.get("groups", {}).items()
            bars += [(f"{kind} {name}", group["coverage"]["kept"]) for name, group in groups]
    bars = [(name, score) for name, score in bars if score is not None]
    if not bars:
        return False
    figure.set_size_inches(8, 1 + 0.22 * len(bars))
    axis = figure.subplots()
    coverage(axis, bars)
    axis.set_xlabel("share of held-out snapshots inside the 90 % interval")
    return True


def _contributions(assessment: Assessment, figure: Figure) -> bool:
    """Mean size of each feature's contribution."""
    shown = [(name, c["size"]) for name, c in assessment.report["contributions"].items() if c["size"] is not None]
    shown = sorted((pair for pair in shown if pair[0] != "intercept"), key=lambda pair: -pair[1][0])
    if not shown:
        return False
    axis = figure.subplots()
    intervals(axis, shown)
    axis.set_xlabel("mean size of the contribution to the gap (accuracy points)")
    return True
