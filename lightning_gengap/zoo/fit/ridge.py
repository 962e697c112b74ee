"""Ridge regression of gaps on few features, in logs or not: one fit at a given strength, without an interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_gengap import __version__
from lightning_gengap.errors import TableError
from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.feature import Feature, grows_with_size
from lightning_gengap.predictors.predictor import Interval, Memoriser, Predictor
from lightning_gengap.zoo.evaluate.splits import Mask
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.fit.specifications import Specification
from lightning_gengap.zoo.table import Floats, Table

GAP_FLOOR = 0.01
LEVEL = 0.9  # of the intervals
KEPT = 0.1  # of what a predicted test accuracy lies below the memoriser's


def fitted_at(table: Table, specification: Specification, rows: Mask, strength: float) -> Predictor:
    """Coefficients and intercept fitted to these rows; the interval is left at zero width."""
    features, columns = design(table, specification, rows)
    gaps = table.numbers("gap.accuracy")[rows]
    target = np.log(np.maximum(gaps, GAP_FLOOR)) if specification.form == "product_of_powers" else gaps
    weights = row_weights(table, specification, rows)
    given = np.zeros(0)
    if specification.test_accuracy:  # train accuracy has coefficient one, the others fit what is left
        given = np.array([features[0].deviation])
    known, free = columns[:, : len(given)], columns[:, len(given) :]
    remaining = target - known @ given
    mean = float(np.average(remaining, weights=weights) if specification.balanced else target.mean())
    # Unweighted columns have mean zero already, but for the rounding of their centres.
    centre = np.average(free, axis=0, weights=weights) if specification.balanced else np.zeros(free.shape[1])
    fitted = _coefficients(free - centre, remaining - mean, weights, strength)
    grown = np.array([grows_with_size(feature.name) for feature in features[len(given) :]])
    if (against := grown & (fitted > 0)).any():  # more of it means a smaller gap, whatever a few sizes say
        free[:, against], centre[against] = 0.0, 0.0
        fitted = _coefficients(free - centre, remaining - mean, weights, strength)
    intercept = mean - float(centre @ fitted)
    standard = np.concatenate([given, fitted])
    scaled = [
        replace(feature, coefficient=rounded(coefficient / feature.deviation))
        for feature, coefficient in zip(features, standard, strict=True)
    ]
    if specification.bounds:
        scaled += design(table, replace(specification, features=specification.bounds), rows)[0]
    measures = {MEASURED[name].measure for name in specification.needs} - {""}
    return Predictor(
        name=specification.name,
        form=specification.form,
        measures={name: {} for name in sorted(measures | {"fit"})},
        intercept=rounded(intercept),
        features=tuple(scaled),
        interval=Interval(LEVEL, specification.offset, 0.0, 0.0),
        prior_gap=rounded(float(gaps.mean())),
        provenance={
            "table_sha256": table.sha256,
            "package_version": __version__,
            "runs": len(np.unique(table.codes("run")[rows])),
            "snapshots": int(rows.sum()),
            "tasks": len(np.unique(table.codes("task")[rows])),
            "ridge_strength": strength,
            "balanced": specification.balanced,
        },
        scores={},
        memoriser=Memoriser(specification.memoriser, KEPT) if specification.memoriser else None,
    )


def _coefficients(columns: Floats, target: Floats, weights: Floats, strength: float) -> Floats:
    weighted = columns * weights[:, None]
    penalty = strength * len(columns) * np.eye(columns.shape[1])
    solved: Floats = np.linalg.solve(weighted.T @ columns + penalty, weighted.T @ target).astype(np.float64)
    return solved


def design(table: Table, specification: Specification, rows: Mask) -> tuple[list[Feature], NDArray[np.float64]]:
    """Features with centre, range and deviation on these rows, and their standardised values."""
    features, columns = [], []
    for name, transform, chosen_floor in specification.features:
        raw = table.numbers(f"measure.{name}")[rows]
        floor = {"log": 1e-4 * float(np.median(raw)), "logit": 1e-3}.get(transform, 0.0)
        floor = floor if chosen_floor is None else chosen_floor
        bare = Feature(name, transform, 0.0, 0.0, 0.0, 0.0, 0.0, rounded(floor))
        values = transformed(bare, raw)
        feature = replace(
            bare,
            centre=rounded(float(values.mean())),
            low=rounded(float(values.min())),
            high=rounded(float(values.max())),
            deviation=rounded(float(values.std())),
        )
        if feature.deviation <= 0 and grows_with_size(name):
            feature = replace(feature, deviation=1.0)  # no training set is large: its coefficient will be zero
        if feature.deviation <= 0:
            raise TableError(
                f"feature {name}", got="one constant value", expected="a feature that varies", remedy="Leave it out."
            )
        features.append(feature)
        columns.append((values - feature.centre) / feature.deviation)
    return features, np.stack(columns, axis=1)


def transformed(feature: Feature, raw: Floats) -> Floats:
    """`Feature.transformed` for many values at once."""
    if feature.transform == "log":
        return np.log(np.maximum(raw, feature.floor))
    if feature.transform == "logit":
        inside = np.clip(raw, feature.floor, 1 - feature.floor)
        return np.log(inside / (1 - inside))
    return raw


def limited_gaps(predictor: Predictor, table: Table, rows: Mask) -> Floats:
    """Predictions without abstention, limited to [0, train accuracy]; for tuning inside the fit."""
    total = np.full(int(rows.sum()), predictor.intercept)
    for feature in predictor.features:
        values = transformed(feature, table.numbers(f"measure.{feature.name}")[rows])
        total += feature.coefficient * (values - feature.centre)
    gap = np.exp(np.minimum(total, 5.0)) if predictor.form == "product_of_powers" else total
    accuracy = table.numbers("measure.train_accuracy")[rows]
    if predictor.memoriser is not None:
        gap = gap + raised(
            predictor.memoriser, gap, accuracy, table.numbers(f"measure.{predictor.memoriser.name}")[rows]
        )
    limited: Floats = np.clip(gap, 0, accuracy)
    return limited


def raised(memoriser: Memoriser, gaps: Floats, accuracy: Floats, values: Floats) -> Floats:
    """`Memoriser.raised` for many gaps at once."""
    added: Floats = (1 - memoriser.kept) * np.minimum(accuracy - gaps - np.minimum(values, accuracy), 0.0)
    return added


def rounded(value: float) -> float:
    """Eight significant digits, as written."""
    return float(f"{value:.8g}")
