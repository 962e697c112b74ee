"""Watch the generalization gap of a PyTorch Lightning model live, from its training data alone.

The public names are resolved when they are first used, so that `gengap --help` imports neither torch nor Lightning.
A script with LightningCLI may name the callbacks by class path (`lightning_gengap.GapMonitor`). Where it imports this
package too, before or after Lightning, it may also name them by `GapMonitor` and `GapEarlyStopping` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_gengap.errors import GapError
    from lightning_gengap.label_check import mislabelled
    from lightning_gengap.learning_curves.curve import LearningCurve
    from lightning_gengap.learning_curves.learning_curve import learning_curve
    from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin, OutputMargin
    from lightning_gengap.monitor.comparing import compare
    from lightning_gengap.monitor.early_stopping import GapEarlyStopping
    from lightning_gengap.monitor.gap_monitor import GapMonitor
    from lightning_gengap.monitor.training_loss import RunningLoss
    from lightning_gengap.predictors.choice import Best
    from lightning_gengap.predictors.comparison import Comparison
    from lightning_gengap.predictors.estimate import EstimatedAccuracy
    from lightning_gengap.predictors.files import available_predictors, load_predictor
    from lightning_gengap.predictors.predictor import Prediction, Predictor
    from lightning_gengap.predictors.recalibration import ObservedGap
    from lightning_gengap.standalone import measure
    from lightning_gengap.stratified_split import hold_out

__version__ = "0.1.0"

__all__ = [
    "Best",
    "Comparison",
    "EstimatedAccuracy",
    "GapEarlyStopping",
    "GapError",
    "GapMonitor",
    "LearningCurve",
    "NormalizedMargin",
    "ObservedGap",
    "OutputMargin",
    "Prediction",
    "Predictor",
    "RunningLoss",
    "available_predictors",
    "compare",
    "hold_out",
    "learning_curve",
    "load_predictor",
    "measure",
    "mislabelled",
]

_MODULES = {
    "Best": "predictors.choice",
    "Comparison": "predictors.comparison",
    "EstimatedAccuracy": "predictors.estimate",
    "GapEarlyStopping": "monitor.early_stopping",
    "GapError": "errors",
    "GapMonitor": "monitor.gap_monitor",
    "LearningCurve": "learning_curves.curve",
    "NormalizedMargin": "measures.margins.margin_metrics",
    "ObservedGap": "predictors.recalibration",
    "OutputMargin": "measures.margins.margin_metrics",
    "Prediction": "predictors.predictor",
    "Predictor": "predictors.predictor",
    "RunningLoss": "monitor.training_loss",
    "available_predictors": "predictors.files",
    "compare": "monitor.comparing",
    "hold_out": "stratified_split",
    "learning_curve": "learning_curves.learning_curve",
    "load_predictor": "predictors.files",
    "measure": "standalone",
    "mislabelled": "label_check",
}
_LIGHTNING_CLIS = ("lightning.pytorch.cli", "pytorch_lightning.cli")

if not TYPE_CHECKING:  # with this function in sight, a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found  # found there at the next access
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})


def _import_callbacks() -> None:
    for name in ("GapMonitor", "GapEarlyStopping"):
        import_module(f"{__name__}.{_MODULES[name]}")


class _CallbacksForLightningCLI(MetaPathFinder):
    """Imports the callbacks as soon as LightningCLI is imported, and finds no module itself.

    LightningCLI knows a callback by its bare name (`--trainer.callbacks GapMonitor`) only once its class exists.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in _LIGHTNING_CLIS:  # its parent is whole by now
            _import_callbacks()


if any(name in sys.modules for name in _LIGHTNING_CLIS):
    _import_callbacks()
elif not any(type(finder).__name__ == _CallbacksForLightningCLI.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _CallbacksForLightningCLI())
