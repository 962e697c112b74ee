"""Table to predictor: ridge regression of the gap on few features, with a conformal interval over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_gengap import __version__
from lightning_gengap.errors import TableError
from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.parts import Feature, FeatureGroup, Interval, contributions
from lightning_gengap.predictors.predictor import ALWAYS_NEEDED, Predictions, Predictor, has_learned
from lightning_gengap.predictors.specification import Group, Specification
from lightning_gengap.zoo.fit.interval import LEVEL, interval_of, shared_variance
from lightning_gengap.zoo.fit.ridge import Regression, features_of, rounded, standardised
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.hold_out import Held, hold_out
from lightning_gengap.zoo.kinds import lacking
from lightning_gengap.zoo.sealed import kept_from_fits, refuse_sealed
from lightning_gengap.zoo.splits import by_run, by_task
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table, check_present

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BALANCED_STRENGTHS = (1e-2, 3e-2, 1e-1)  # weaker ones fail on sources that are left out
FEWEST_RUNS, FEWEST_TASKS = 20, 5


def usable(table: Table, specification: Specification) -> Mask:
    """Rows with every feature, and with a train accuracy at which predictors do not abstain.

    With a `grid`, only rows of its runs. What is kept from fits for the sealed part is none of them.
    """
    learned = has_learned(table.numbers("measure.train_accuracy"), table.numbers("measure.classes"))
    present = [np.isfinite(table.numbers(f"measure.{name}")) for name in specification.needs]
    present.append(~kept_from_fits(table))
    if specification.grid:
        present.append(of_grid(table, specification.grid))
    return np.logical_and.reduce([learned, *present])


def of_grid(table: Table, grid: str) -> Mask:
    """Rows of the runs whose grid's name begins with this."""
    if "recipe.grid" not in table.columns:
        return np.zeros(len(table), bool)
    return np.char.startswith(table.words("recipe.grid"), grid)


def check_fit(table: Table, specification: Specification) -> None:
    """Refuse a table in which a feature, or the specification's grid, occurs nowhere."""
    columns = [f"measure.{name}" for name in (*ALWAYS_NEEDED, *specification.needs)]
    check_present(table, columns, f"a fit of {specification.name}", "choose another predictor")
    if specification.grid and not of_grid(table, specification.grid).any():
        raise TableError(
            "table",
            got=f"no run with a recipe.grid that begins with {specification.grid}",
            expected=f"runs of the grid to which {specification.name} is fitted",
            remedy="Train them with `gengap zoo run --plan grids`, or choose another predictor.",
        )


def check_enough(table: Table, specification: Specification, among: Mask, part: str = "the table") -> None:
    """Refuse rows of too few runs or tasks, chosen from `part`; a specification with a grid needs a single task."""
    fewest = 1 if specification.grid else FEWEST_TASKS
    if not enough(table, among, fewest):
        everywhere = np.ones(len(table), bool)
        runs, tasks, all_runs, all_tasks = (
            table.count(column, rows) for rows in (among, everywhere) for column in ("run", "task")
        )
        raise TableError(
            "table",
            got=f"{runs} usable runs in {tasks} tasks of {part} (the table has {all_runs} runs in {all_tasks} tasks)",
            expected=f"at least {FEWEST_RUNS} runs in {fewest} tasks, with every feature in one row",
            remedy="Train more tasks with `gengap zoo run`.",
        )


def enough(table: Table, rows: Mask, tasks: int = FEWEST_TASKS) -> bool:
    """Whether the rows are of as many runs and tasks as a fit asks for."""
    return table.count("run", rows) >= FEWEST_RUNS and table.count("task", rows) >= tasks


def fit(table: Table, specification: Specification, rows: Mask | None = None) -> Predictor:
    """Fit coefficients, and, by holding out inside these rows, the ridge strength and the interval.

    The strength is chosen by run, or by task where the specification is balanced. The interval is calibrated over
    tasks, or over runs where the specification has a grid. There is no loss head yet; see `fit_loss_head`. Too few runs
    or tasks and constant features are refused.
    """
    rows = usable(table, specification) & (np.ones(len(table), bool) if rows is None else rows)
    check_enough(table, specification, rows)
    strength = best_strength(table, specification, rows)
    (predictor,) = fitted_at(table, specification, rows, (strength,))
    interval, share = _interval(table, specification, rows, strength)
    sources = sorted(set(table.words("recipe.source")[rows].tolist()))
    facts = {"shared_by_task": share, "lacking": lacking(table, rows), "sources": sources}
    return replace(predictor, interval=interval, provenance=predictor.provenance | facts)


def fitted_at(
    table: Table, specification: Specification, rows: Mask, strengths: Sequence[float], drop_constant: bool = False
) -> list[Predictor]:
    """One predictor for each ridge strength, with an interval of no width. Sealed rows are refused."""
    refuse_sealed(table, rows)
    given, regression = regression_of(table, specification, rows, drop_constant)
    bounds = features_of(table, specification.bounds, rows, drop_constant)
    measures = {MEASURED[name].measure for name in specification.needs} - {""}
    every = {*ALWAYS_NEEDED, *specification.needs, *(term.name for term in specification.grouped)}
    columns = table.measured(every, rows)
    fitted = []
    for strength, line in zip(strengths, regression.lines(strengths), strict=True):
        predictor = Predictor(
            name=specification.name,
            measures=tuple(sorted(measures | {"fit"})),
            intercept=rounded(line.intercept),
            features=(*given, *regression.with_coefficients(line), *bounds),
            groups=(),
            interval=Interval(LEVEL, specification.offset, 0.0, 0.0),
            prior_gap=rounded(float(table.numbers("gap.accuracy")[rows].mean())),
            specification=specification,
            provenance={
                "table_sha256": table.sha256,
                "package_version": __version__,
                "runs": table.count("run", rows),
                "snapshots": int(rows.sum()),
                "tasks": table.count("task", rows),
                "ridge_strength": strength,
            },
            scores={},
        )
        for group in specification.groups:
            added = sum(predictor.contributions(columns, columns["train_accuracy"]).values())
            left = table.numbers("gap.accuracy")[rows] - added
            predictor = replace(
                predictor, groups=(*predictor.groups, group_of(table, specification, group, rows, left, strength))
            )
        fitted.append(predictor)
    return fitted


def group_of(
    table: Table, specification: Specification, group: Group, rows: Mask, left: Floats, strength: float
) -> FeatureGroup:
    """A group's features, fitted to what is `left` of the gap in those of the rows in which all are measured.

    They add nothing on average over these. Where they are measured in too few runs or tasks, the group is empty.
    """
    measured = np.isfinite([table.numbers(f"measure.{term.name}")[rows] for term in group.terms]).all(axis=0)
    own = rows.copy()
    own[rows] = measured
    if not enough(table, own):
        return FeatureGroup(group.name, ())
    features = features_of(table, group.terms, own, drop_constant=True)
    columns = standardised(table, features, own)
    weights = row_weights(table, specification, own)
    centre = weights @ columns / weights.sum()
    features = tuple(
        replace(one, centre=rounded(one.centre + float(shift) * one.deviation))
        for one, shift in zip(features, centre, strict=True)
    )
    if group.penalty is None:
        return FeatureGroup(group.name, features)
    never_raises = np.array([term.never_raises for term in group.terms], bool)
    regression = Regression(features, columns, left[measured], weights, never_raises)
    (line,) = regression.lines([strength * group.penalty])
    return FeatureGroup(group.name, regression.with_coefficients(line))


def regression_of(
    table: Table, specification: Specification, rows: Mask, drop_constant: bool = False
) -> tuple[tuple[Feature, ...], Regression]:
    """The features whose coefficients are given, and the regression of what they leave of the gap on the others.

    Only where the test accuracy is fitted is one given: train accuracy, the first, with a coefficient of one.
    """
    given = features_of(table, specification.features[: int(specification.test_accuracy)], rows, drop_constant)
    given = tuple(replace(feature, coefficient=1.0) for feature in given)
    terms = specification.features[len(given) :]
    features = features_of(table, terms, rows, drop_constant)
    known = sum(contributions(given, table.measured([feature.name for feature in given], rows)).values())
    regression = Regression(
        features=features,
        columns=standardised(table, features, rows),
        target=table.numbers("gap.accuracy")[rows] - known,
        weights=row_weights(table, specification, rows),
        never_raises=np.array([term.never_raises for term in terms], bool),
    )
    return given, regression


def predict_rows(predictor: Predictor, table: Table, rows: Mask) -> Predictions:
    """What a predictor says of some rows."""
    return predictor.predict_columns(table.measured({*ALWAYS_NEEDED, *predictor.reads}, rows))


def best_strength(table: Table, specification: Specification, rows: Mask) -> float:
    """The strength with the smallest mean absolute error on held-out runs of these rows.

    If the specification is balanced, the smallest mean over tasks of the error on held-out tasks.
    """
    strengths = strengths_of(specification)
    if len(strengths) == 1:
        return strengths[0]
    held = _held_out(table, specification, rows, strengths, "task" if specification.balanced else "run")
    errors = np.abs(table.numbers("gap.accuracy")[held.rows] - held.values)
    return strengths[least(errors, table.codes("task")[held.rows], specification.balanced)]


def strengths_of(specification: Specification) -> tuple[float, ...]:
    """The ridge strengths that are tried."""
    if specification.strength is not None:
        return (specification.strength,)
    return BALANCED_STRENGTHS if specification.balanced else STRENGTHS


def least(errors: Floats, tasks: Rows, balanced: bool) -> int:
    """The row of the smallest mean error, or, if balanced, of the smallest mean over tasks of it."""
    weights = 1 / np.bincount(tasks)[tasks] if balanced else np.ones(len(tasks))
    return int(np.argmin(errors @ weights))


def held_out_gaps(table: Table, specification: Specification, rows: Mask) -> Floats:
    """For each of these rows the gap that a predictor says which has not seen its task; NaN elsewhere."""
    gaps = np.full(len(table), np.nan)
    held = _held_out(table, specification, rows, [best_strength(table, specification, rows)], "task")
    gaps[held.rows] = held.values[0]
    return gaps


def _interval(table: Table, specification: Specification, rows: Mask, strength: float) -> tuple[Interval, float]:
    """The interval, and the share of the residuals' variance that the rows of one task have in common."""
    column = "run" if specification.grid else "task"
    held = _held_out(table, specification, rows, [strength], column)
    gaps, groups = held.values[0], table.codes(column)[held.rows]
    scaled = (table.numbers("gap.accuracy")[held.rows] - gaps) / (gaps + specification.offset)
    interval = interval_of(scaled, groups, specification.offset, specification.symmetric)
    return interval, rounded(shared_variance(scaled, groups))


def _held_out(table: Table, specification: Specification, rows: Mask, strengths: Sequence[float], column: str) -> Held:
    """Gaps without abstention of held-out runs or tasks, by strength, inside `rows`."""

    def method(fitted: Mask, held: Mask) -> Floats:
        accuracy = table.numbers("measure.train_accuracy")[held]
        predictors = fitted_at(table, specification, fitted, strengths)
        return np.stack([one.gaps(table.measured(one.reads, held), accuracy) for one in predictors])

    split = by_run(table) if column == "run" else by_task(table)
    return hold_out(split, rows, method, kinds=len(strengths))
