"""The figure of a learning curve. matplotlib is imported when it is drawn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_gengap.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_gengap.learning_curves.curve import LearningCurve


def draw(curve: LearningCurve, path: str | Path | None) -> Figure:
    """Test accuracies of the parts, and the expected one with its 90 % band, over the number of samples."""
    if find_spec("matplotlib") is None:
        raise ConfigurationError(
            "figure()",
            got="no matplotlib",
            expected="matplotlib to draw with",
            remedy='`pip install "lightning-gengap[report]"`, or print curve.table().',
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    sizes = np.geomspace(curve.parts[0].samples, curve.farther()[-1][0], 60)
    read = [curve.extrapolate(min(size, curve.farther()[-1][0])) for size in np.maximum(sizes, curve.parts[0].samples)]
    band = ([100 * each.lower for each in read], [100 * each.upper for each in read])
    axis.fill_between(sizes, *band, alpha=0.2, color="C0", label="90 % band")
    axis.plot(sizes, [100 * each.accuracy for each in read], color="C0", label="expected")
    tested = ([part.samples for part in curve.parts], [100 * part.test_accuracy for part in curve.parts])
    axis.plot(*tested, "o", color="C0", label="trained on a part")
    axis.axvline(curve.samples, color="grey", linewidth=0.8)
    axis.set_xscale("log")
    ticks = [*tested[0], *(samples for samples, _ in curve.farther())]
    axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("training samples (grey line: all there are)")
    axis.set_ylabel("test accuracy (points)")
    axis.legend(loc="lower right")
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return figure
