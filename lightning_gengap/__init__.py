"""Watch the generalization gap of a PyTorch Lightning model live, from its training data alone."""

from lightning_gengap.errors import GapError
from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin, OutputMargin
from lightning_gengap.monitor.early_stopping import GapEarlyStopping
from lightning_gengap.monitor.gap_monitor import GapMonitor
from lightning_gengap.monitor.training_loss import RunningLoss
from lightning_gengap.predictors.files import available_predictors, load_predictor
from lightning_gengap.predictors.predictor import Prediction, Predictor
from lightning_gengap.standalone import measure

__version__ = "0.1.0"

__all__ = [
    "GapEarlyStopping",
    "GapError",
    "GapMonitor",
    "NormalizedMargin",
    "OutputMargin",
    "Prediction",
    "Predictor",
    "RunningLoss",
    "available_predictors",
    "load_predictor",
    "measure",
]
