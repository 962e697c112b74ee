"""Held-out point predictions of many contenders: fast log-linear ridge, and a boosted and a neural regressor beside it.

`fit` makes the predictors that are shipped, with interval and abstention. These here are for comparisons by the
hundred: no interval, no abstention; a value farther outside the fitted range than a predictor would accept counts as
the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.feature import Feature
from lightning_gengap.predictors.predictor import Memoriser
from lightning_gengap.zoo.evaluate.splits import Mask, Split, fold_of
from lightning_gengap.zoo.fit.fit import BALANCED_STRENGTHS, STRENGTHS
from lightning_gengap.zoo.fit.ridge import GAP_FLOOR, KEPT, raised, transformed
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.fit.specifications import Specification, Term
from lightning_gengap.zoo.table import Floats, Table

FEWEST_RUNS, FEWEST_TASKS = 20, 5  # as `fit` asks
Folds = NDArray[np.int64]
Regressor = Callable[[Floats, Floats, Folds], Callable[[Floats], Floats]]


@dataclass(frozen=True)
class Points:
    """Predicted gaps of held-out rows, in the table's order."""

    rows: NDArray[np.int64]
    gap: Floats


@dataclass(frozen=True)
class Codes:
    """Run, task and inner folds (of whole runs, of whole tasks) as numbers: text is slow to compare by the thousand."""

    run: NDArray[np.int64]
    task: NDArray[np.int64]
    fold: Folds
    task_fold: Folds

    @staticmethod
    def of(table: Table) -> Codes:
        """The codes of a table's rows."""
        run, task = (np.unique(table.words(name), return_inverse=True)[1].astype(np.int64) for name in ("run", "task"))
        return Codes(run, task, fold_of(table.words("run")), fold_of(table.words("task")))

    def enough(self, rows: Mask, tasks: int = FEWEST_TASKS) -> bool:
        """Whether there are so many runs and tasks as `fit` asks for, or as many tasks as are given."""
        return len(np.unique(self.run[rows])) >= FEWEST_RUNS and len(np.unique(self.task[rows])) >= tasks


def hold_out_points(
    table: Table,
    specification: Specification,
    split: Iterable[Split],
    among: Mask,
    regressor: Regressor | None = None,
    codes: Codes | None = None,
    fewest_tasks: int = FEWEST_TASKS,
) -> Points:
    """Fit on each split's rows and predict its held-out rows, both within `among`; too small folds are skipped."""
    codes = codes or Codes.of(table)
    rows, gaps = [np.zeros(0, np.int64)], [np.zeros(0)]
    for _, fitted, held in split:
        if codes.enough(fitted & among, fewest_tasks) and (held & among).any():
            rows.append(np.flatnonzero(held & among))
            gaps.append(predicted_points(table, specification, fitted & among, held & among, regressor, codes))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Points(np.concatenate(rows)[order], np.concatenate(gaps)[order])


def predicted_points(
    table: Table,
    specification: Specification,
    fitted: Mask,
    held: Mask,
    regressor: Regressor | None = None,
    codes: Codes | None = None,
) -> Floats:
    """Gaps of the held rows, limited to [0, train accuracy], from a regressor fitted to the others (default: ridge).

    Ridge weighs the rows of a balanced specification as `fit` does; another regressor has all alike.
    """
    codes = codes or Codes.of(table)
    gaps, accuracy = table.numbers("gap.accuracy")[fitted], table.numbers("measure.train_accuracy")[held]
    if not specification.features:
        return np.minimum(np.full(int(held.sum()), gaps.mean()), accuracy)
    powers = specification.form == "product_of_powers"
    target = np.log(np.maximum(gaps, GAP_FLOOR)) if powers else gaps
    base = np.zeros(len(table))
    if specification.test_accuracy:  # train accuracy comes with coefficient one
        base = table.numbers("measure.train_accuracy")
    free = specification.features[1:] if specification.test_accuracy else specification.features
    target = target - base[fitted]
    known, asked = design(table, free, fitted, held)
    if regressor is None and specification.balanced:
        weights = row_weights(table, specification, fitted)
        model = balanced_ridge(known, target, codes.task[fitted], codes.task_fold[fitted], weights)
    else:
        model = (regressor or ridge)(known, target, codes.fold[fitted])
    predicted = base[held] + model(asked)
    gap = np.exp(np.minimum(predicted, 5.0)) if powers else predicted
    if specification.memoriser:
        memoriser = Memoriser(specification.memoriser, KEPT)
        gap = gap + raised(memoriser, gap, accuracy, table.numbers(f"measure.{memoriser.name}")[held])
    limited: Floats = np.clip(gap, 0, accuracy)
    return limited


def design(table: Table, terms: Sequence[Term], fitted: Mask, held: Mask) -> tuple[Floats, Floats]:
    """Standardised features of fitted and held rows, (rows, features); constant ones are zero."""
    known, asked = [], []
    for name, transform, chosen in terms:
        raw = table.numbers(f"measure.{name}")
        floor = {"log": 1e-4 * float(np.median(raw[fitted])), "logit": 1e-3}.get(transform, 0.0)
        floor = max(floor if chosen is None else chosen, np.finfo(float).tiny)
        feature = Feature(name, transform, 0.0, 0.0, 0.0, 0.0, 0.0, floor)
        inside, outside = transformed(feature, raw[fitted]), transformed(feature, raw[held])
        centre, deviation = inside.mean(), inside.std()
        scale = deviation if deviation > 1e-12 * max(1.0, abs(centre)) else np.inf
        limited = np.clip(outside, inside.min() - deviation, inside.max() + deviation)
        if name == "train_samples":  # more data is what a predictor is asked to reach for
            limited = np.maximum(outside, inside.min() - deviation)
        known.append((inside - centre) / scale)
        asked.append((limited - centre) / scale)
    return np.stack(known, axis=1), np.stack(asked, axis=1)


def ridge(x: Floats, y: Floats, folds: Folds) -> Callable[[Floats], Floats]:
    """Ridge regression; of the strengths of `fit`, the one with the smallest mean absolute error over folds."""
    errors = np.zeros(len(STRENGTHS))
    for kept, left in _inner(folds):
        for number, model in enumerate(_ridges(x[kept], y[kept], STRENGTHS)):
            errors[number] += np.abs(y[left] - model(x[left])).sum()
    return next(_ridges(x, y, (STRENGTHS[int(errors.argmin())],)))


def balanced_ridge(x: Floats, y: Floats, tasks: Folds, folds: Folds, weights: Floats) -> Callable[[Floats], Floats]:
    """Weighted ridge regression; the strength has the smallest mean over tasks of the error on held-out tasks."""
    _, task = np.unique(tasks, return_inverse=True)
    share = 1 / np.bincount(task)[task]
    errors = np.zeros(len(BALANCED_STRENGTHS))
    for kept, left in _inner(folds):
        for number, model in enumerate(_ridges(x[kept], y[kept], BALANCED_STRENGTHS, weights[kept])):
            errors[number] += (share[left] * np.abs(y[left] - model(x[left]))).sum()
    return next(_ridges(x, y, (BALANCED_STRENGTHS[int(errors.argmin())],), weights))


def boosted(x: Floats, y: Floats, folds: Folds) -> Callable[[Floats], Floats]:
    """Gradient-boosted trees (scikit-learn's histogram version, 150 rounds), with 3, 6 or 12 leaves as folds prefer."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def trees(leaves: int) -> Any:
        return HistGradientBoostingRegressor(
            learning_rate=0.07,
            max_iter=150,
            max_leaf_nodes=leaves,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )

    return _best([lambda: trees(3), lambda: trees(6), lambda: trees(12)], x, y, folds)


def neural(x: Floats, y: Floats, folds: Folds) -> Callable[[Floats], Floats]:
    """Three networks of 16 hidden units averaged, by L-BFGS, with the weight decay that folds prefer."""
    from sklearn.neural_network import MLPRegressor

    scale = y.std() or 1.0

    def network(decay: float, seed: int) -> Any:
        return MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", alpha=decay, max_iter=150, random_state=seed)

    decays = (0.1, 1.0, 10.0)
    chosen = _chosen([lambda d=d: network(d, 0) for d in decays], x, y / scale, folds)  # type: ignore[misc]
    members = [_trained(network(decays[chosen], seed), x, y / scale) for seed in range(3)]
    return lambda asked: scale * np.mean([member.predict(asked) for member in members], axis=0)


def _best(makers: Sequence[Callable[[], Any]], x: Floats, y: Floats, folds: Folds) -> Callable[[Floats], Floats]:
    model = _trained(makers[_chosen(makers, x, y, folds)](), x, y)
    return lambda asked: np.asarray(model.predict(asked), float)


def _chosen(makers: Sequence[Callable[[], Any]], x: Floats, y: Floats, folds: Folds) -> int:
    """The candidate with the smallest mean absolute error over three coarse folds."""
    errors = [
        sum(
            np.abs(y[left] - _trained(make(), x[kept], y[kept]).predict(x[left])).sum()
            for kept, left in _inner(folds % 3)
        )
        for make in makers
    ]
    return int(np.argmin(errors))


def _trained(model: Any, x: Floats, y: Floats) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bounded number of steps is part of the definition
        return model.fit(x, y)


def _inner(folds: Folds) -> Iterator[tuple[Mask, Mask]]:
    for fold in np.unique(folds):
        if 0 < (folds == fold).sum() < len(folds):
            yield folds != fold, folds == fold


def _ridges(
    x: Floats, y: Floats, strengths: Sequence[float], weights: Floats | None = None
) -> Iterator[Callable[[Floats], Floats]]:
    """One model per strength, from one eigendecomposition; the intercept is free."""
    shares = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    centre, mean = shares @ x, float(shares @ y)
    weighted = (x - centre) * shares[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ (x - centre))
    moment = vectors.T @ (weighted.T @ (y - mean))
    for strength in strengths:
        coefficients = vectors @ (moment / (np.maximum(values, 0) + strength))

        def model(asked: Floats, coefficients: Floats = coefficients) -> Floats:
            predicted: Floats = mean + (asked - centre) @ coefficients
            return predicted

        yield model
