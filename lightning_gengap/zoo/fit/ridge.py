"""Ridge regression on standardised features: the one fit behind predictors, loss heads and all comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import TableError
from lightning_gengap.predictors.parts import Feature
from lightning_gengap.predictors.specification import Term
from lightning_gengap.zoo.table import Floats, Mask, Table


class Line(NamedTuple):
    """A fitted line in standardised features."""

    intercept: float
    coefficients: Floats

    def at(self, columns: Floats) -> Floats:
        """Its values for some rows of standardised features."""
        values: Floats = self.intercept + columns @ self.coefficients
        return values


@dataclass(frozen=True)
class Regression:
    """What is to be explained by what, for some rows.

    Attributes:
        features: centre, range and deviation of the features in these rows, with coefficients of zero.
        columns: the standardised features, shape (rows, features).
        never_raises: the features whose coefficients are kept at or below zero.
    """

    features: tuple[Feature, ...]
    columns: Floats
    target: Floats
    weights: Floats
    never_raises: NDArray[np.bool_]

    def part(self, rows: Mask) -> Regression:
        """The same for some of its rows."""
        return replace(self, columns=self.columns[rows], target=self.target[rows], weights=self.weights[rows])

    def lines(self, strengths: Sequence[float]) -> list[Line]:
        """One line for each strength of the penalty; the intercept is free."""
        lines = []
        for strength, line in zip(strengths, ridge(self.columns, self.target, self.weights, strengths), strict=True):
            against = self.never_raises & (line.coefficients > 0)
            if against.any():
                line = next(ridge(np.where(against, 0.0, self.columns), self.target, self.weights, [strength]))
            lines.append(line)
        return lines

    def with_coefficients(self, line: Line) -> tuple[Feature, ...]:
        """The features with the coefficients of a line, in their own units."""
        return tuple(
            replace(feature, coefficient=rounded(coefficient / feature.deviation))
            for feature, coefficient in zip(self.features, line.coefficients.tolist(), strict=True)
        )


def ridge(columns: Floats, target: Floats, weights: Floats, strengths: Iterable[float]) -> Iterator[Line]:
    """Weighted ridge regression with a free intercept, for many strengths from one eigendecomposition.

    It minimises sum(weights x residuals^2) / sum(weights) + strength x |coefficients|^2.
    """
    shares = weights / weights.sum()
    centre, mean = shares @ columns, float(shares @ target)
    weighted = (columns - centre) * shares[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ (columns - centre))
    moment = vectors.T @ (weighted.T @ (target - mean))
    for strength in strengths:
        coefficients = vectors @ (moment / (np.maximum(values, 0) + strength))
        yield Line(mean - float(centre @ coefficients), coefficients)


def features_of(table: Table, terms: Sequence[Term], rows: Mask, drop_constant: bool = False) -> tuple[Feature, ...]:
    """Features with their centre, range and deviation in these rows; a constant one is refused unless dropped."""
    return tuple(_feature(term, table.numbers(f"measure.{term.name}")[rows], drop_constant) for term in terms)


def standardised(table: Table, features: Sequence[Feature], rows: Mask) -> Floats:
    """The features' values in these rows in units of their deviation from their centre, shape (rows, features)."""
    values = table.measured([feature.name for feature in features], rows)
    columns = [(f.transformed(values[f.name]) - f.centre) / f.deviation for f in features]
    return np.stack(columns, axis=1) if columns else np.zeros((int(rows.sum()), 0))


def _feature(term: Term, raw: Floats, drop_constant: bool) -> Feature:
    floor = term.floor
    if floor is None:
        floor = 1e-4 * float(np.median(raw)) if term.transform == "log" else 0.0
    if term.transform == "log":
        floor = max(floor, float(np.finfo(float).tiny))
    bare = Feature(term.name, term.transform, 0.0, 0.0, 0.0, 0.0, 0.0, rounded(floor), term.scale)
    values = bare.transformed(raw)
    centre, deviation = float(values.mean()), float(values.std())
    if deviation <= 1e-12 * max(1.0, abs(centre)):
        if not (drop_constant or term.never_raises):
            raise TableError(
                f"feature {term.name}",
                got="one constant value",
                expected="a feature that varies",
                remedy="Leave it out.",
            )
        deviation = 1.0
    low, high = rounded(float(values.min())), rounded(float(values.max()))
    return replace(bare, centre=rounded(centre), low=low, high=high, deviation=rounded(deviation))


def rounded(value: float) -> float:
    """Eight significant digits, as written."""
    return float(f"{value:.8g}")
