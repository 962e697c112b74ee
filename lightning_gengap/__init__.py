"""Watch the generalization gap of a PyTorch Lightning model live, from its training data alone."""

from lightning_gengap.early_stopping import GapEarlyStopping
from lightning_gengap.errors import GapError
from lightning_gengap.measures.margin import NormalizedMargin, OutputMargin
from lightning_gengap.monitor import GapMonitor
from lightning_gengap.predictor import Prediction, Predictor
from lightning_gengap.predictor_files import available_predictors, load_predictor
from lightning_gengap.standalone import measure
from lightning_gengap.training_speed import RunningLoss

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
