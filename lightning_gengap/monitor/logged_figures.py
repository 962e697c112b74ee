"""What stands behind the numbers that a module logs: the counts of its metrics, and how they are reduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchmetrics import Metric
from torchmetrics.aggregation import BaseAggregator, MaxMetric, MinMetric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy
from torchmetrics.metric import CompositionalMetric

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass(frozen=True)
class Figure:
    """What stands behind a logged number.

    Attributes:
        right: predictions that an accuracy object counted as right, on this rank.
        total: all that it counted; 0 where the number alone is known.
        average: of the classes, as its object has it.
        objection: what it is instead of an accuracy, where its object or its reduction says so.
    """

    right: int = 0
    total: int = 0
    average: str | None = None
    objection: str | None = None


def logged_figures(trainer: Trainer) -> dict[str, Figure] | None:
    """What stands behind each key that the running loop has logged. The only reader of Lightning's results.

    Lightning forgets them after `on_validation_end` or `on_train_epoch_end`. None where it keeps them otherwise.
    """
    found: dict[str, Figure] = {}
    try:
        for entry in trainer._results.values():  # type: ignore[union-attr]
            meta = entry.meta
            if entry.has_reset or not meta.on_epoch:
                continue
            several = meta.add_dataloader_idx and meta.dataloader_idx is not None
            figure = _of_reduction(meta.reduce_fx) if entry.is_tensor else _of_metric(entry.value)
            for name in (meta.name, meta.forked_name(on_step=False)):
                found[f"{name}/dataloader_idx_{meta.dataloader_idx}" if several else name] = figure
    except (AttributeError, TypeError):  # private names of another version
        return None
    return found


def _of_reduction(reduction: Any) -> Figure:
    name = getattr(reduction, "__name__", "")
    return Figure(objection=f"the {name} over batches") if name in ("max", "min") else Figure()


def _counted(metric: Metric, right: Sequence[str], wrong: Sequence[str], average: str | None = None) -> Figure:
    hits, misses = (sum(int(getattr(metric, state).sum()) for state in states) for states in (right, wrong))
    return Figure(hits, hits + misses, average)


def _of_metric(metric: Metric) -> Figure:
    """What a logged object says of itself. Where it is an accuracy, its counts are exact whatever it averages."""
    name = type(metric).__name__
    if isinstance(metric, MultilabelAccuracy):
        return Figure(objection=f"a {name}, of several labels a sample")
    if isinstance(metric, BinaryAccuracy):
        if metric.threshold != 0.5:
            return Figure(objection=f"a {name} with threshold={metric.threshold}")
        return _counted(metric, ("tp", "tn"), ("fp", "fn"))
    if isinstance(metric, MulticlassAccuracy):  # one value for each class or sample is none that Lightning can log
        if metric.top_k > 1:
            return Figure(objection=f"a {name} with top_k={metric.top_k}")
        return _counted(metric, ("tp",), ("fn",), metric.average)
    if isinstance(metric, MaxMetric | MinMetric):
        return Figure(objection=f"a {name} over batches")
    if isinstance(metric, BaseAggregator | CompositionalMetric):
        return Figure()
    own = [base for base in type(metric).__mro__ if issubclass(base, Metric) and base is not Metric]
    foreign = any(base.__module__.startswith("torchmetrics.") for base in own)
    return Figure(objection=f"a {name}, which is no accuracy") if foreign else Figure()
