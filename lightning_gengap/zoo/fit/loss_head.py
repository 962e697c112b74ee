"""The loss head of a predictor: ridge regression of the log of test minus train loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_gengap.predictors.parts import PREDICTED_GAP, LossHead
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.fit import fit, held_out_gaps, usable
from lightning_gengap.zoo.fit.interval import LEVEL, weighted_quantile
from lightning_gengap.zoo.fit.ridge import Regression, features_of, rounded, standardised
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.fit.specifications import TRAIN_LOSS
from lightning_gengap.zoo.hold_out import Held, hold_out
from lightning_gengap.zoo.splits import by_task
from lightning_gengap.zoo.table import Floats, Mask, Table

FLOOR = 0.02  # nats; gaps below it, negative ones too, count as this
STRENGTH = 1e-3
GAP = Term(PREDICTED_GAP, "log", 0.005)


def fit_with_head(table: Table, specification: Specification) -> Predictor:
    """The whole predictor, with a loss head where the specification has one."""
    predictor = fit(table, specification)
    if not specification.loss_head:
        return predictor
    return replace(predictor, loss_head=fit_loss_head(table, specification, usable(table, specification)))


def fit_loss_head(table: Table, specification: Specification, rows: Mask) -> LossHead | None:
    """The head with the quantiles of its residuals on held-out tasks; None where no row has a loss gap.

    Where the specification says so, one feature is the predicted accuracy gap. In the fit it is what predictors say
    that have not seen the task.
    """
    rows = rows & np.isfinite(table.numbers("gap.loss"))
    if not rows.any():
        return None
    if specification.loss_head == "predicted_gap":
        gaps = held_out_gaps(table, specification, rows)
        table, rows = with_gaps(table, gaps), rows & np.isfinite(gaps)
    held = held_out_logs(table, specification, rows)
    residuals = log_of(table.numbers("gap.loss")[held.rows]) - held.values[0]
    tasks, level = table.codes("task")[held.rows], (1 + LEVEL) / 2
    return replace(
        fit_loss_point(table, specification, rows),
        below=rounded(-weighted_quantile(-residuals, tasks, level)),
        above=rounded(weighted_quantile(residuals, tasks, level)),
    )


def fit_loss_point(table: Table, specification: Specification, rows: Mask) -> LossHead:
    """The head without an interval. For the constant baseline it is the geometric mean of the loss gaps."""
    terms = _terms(specification)
    features = features_of(table, terms, rows)
    regression = Regression(
        features=features,
        columns=standardised(table, features, rows),
        target=log_of(table.numbers("gap.loss")[rows]),
        weights=row_weights(table, specification, rows),
        never_raises=np.zeros(len(terms), bool),
    )
    (line,) = regression.lines([STRENGTH])
    return LossHead(rounded(line.intercept), regression.with_coefficients(line), 0.0, 0.0)


def held_out_logs(table: Table, specification: Specification, rows: Mask) -> Held:
    """The log of the loss gap that heads say of tasks which they have not seen."""

    def method(fitted: Mask, held: Mask) -> Floats:
        head = fit_loss_point(table, specification, fitted)
        return head.log_gaps(values_of(head, table, held))

    return hold_out(by_task(table), rows, method)


def values_of(head: LossHead, table: Table, rows: Mask) -> dict[str, Floats]:
    """The values of a head's features in some rows."""
    return table.measured((feature.name for feature in head.features), rows)


def with_gaps(table: Table, gaps: Floats) -> Table:
    """The table with the accuracy gap that was predicted for each row, for heads that start from it."""
    return table.with_numbers(f"measure.{PREDICTED_GAP}", gaps)


def log_of(loss_gaps: Floats) -> Floats:
    """The log of loss gaps, none of them below the floor."""
    return np.log(np.maximum(loss_gaps, FLOOR))


def _terms(specification: Specification) -> tuple[Term, ...]:
    """The features of the accuracy gap and the train loss, or that gap itself and the train loss; none for none."""
    if not specification.features:
        return ()
    if specification.loss_head == "predicted_gap":
        return (GAP, TRAIN_LOSS)
    return tuple(dict.fromkeys((*specification.features, TRAIN_LOSS)))
