"""How optimistic hand-picked features are: features chosen inside the folds, beside those of `images_v3`.

    python benchmarks/selection.py [pretrained_predictors/small_zoo_v3.csv.gz] [least share of rows with a measure: 0.8]

Development part only. In every outer fold, greedy forward selection on the rows that are fitted: starting from train
accuracy with coefficient one (the test accuracy is fitted, balanced, as in `images_v3`), that measure is added which
lowers most the mean over tasks of the absolute error on inner held-out tasks, six at most, until none lowers it. Ridge
strength: the better of those of `fit`, in the inner folds. The chosen features are fitted to the whole of the fitted
rows, and scored on the held-out ones. *Nothing derived*: without the measures that were composed while looking at the
development part. *Chosen once*: the same selection on all rows, then scored in the folds, all of which took part in the
choice, as they did in that of the features of `images_v3` and of the default, by hand. All contenders are scored on the
rows that have every candidate; 95 % intervals by resampling tasks, then their runs.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning_gengap.zoo.evaluate.ablation import finite, measures_of, term_of, union
from lightning_gengap.zoo.evaluate.regressors import Codes, Points, design, hold_out_points, predicted_points
from lightning_gengap.zoo.evaluate.splits import Mask, Split, by_task, development, splits

from lightning_gengap.measures.derived import INGREDIENTS
from lightning_gengap.zoo.evaluate.abilities import serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Resampling, Score
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE
from lightning_gengap.zoo.fit.fit import BALANCED_STRENGTHS, usable
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.fit.specifications import DEFAULT_3, IMAGES_3, Specification, Term
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as written
from lightning_gengap.zoo.table import Floats, Table, read

TABLE = Path(__file__).resolve().parent.parent / "pretrained_predictors" / "small_zoo_v3.csv.gz"
OUTER = ("by task", "leave one source out")
MOST, FEWEST_ROWS = 6, 10  # features besides train accuracy; rows of an inner fit, as in `fit`
ACCURACY = IMAGES_3.features[0]
NESTED, PLAIN, ONCE = "chosen in the folds", "chosen in the folds, nothing derived", "chosen once on all rows"


class Fold(NamedTuple):
    """An inner fold: moments of the standardised candidates on its fitted rows, and its held-out rows."""

    gram: Floats
    moment: Floats
    centre: Floats
    mean: float
    asked: Floats
    train: Floats  # accuracy
    gap: Floats
    task: Floats


class Choice(NamedTuple):
    """The features of one outer fold, in the order of their choice, and the inner error in points after each."""

    terms: tuple[Term, ...]
    errors: tuple[float, ...]


def specification_of(name: str, terms: Sequence[Term]) -> Specification:
    """Fitted and weighted as `images_v3`."""
    return replace(IMAGES_3, name=name, features=(ACCURACY, *terms))


def candidates(table: Table, among: Mask, share: float) -> tuple[Term, ...]:
    """All measures of an image table that are there in so many of the rows, with size, classes and progress."""
    measured = (term_of(key) for key in measures_of(table, among))
    terms = union(tuple(measured), TRIVIAL_BASELINE.features)
    frequent = (term for term in terms if finite(table, (term,))[among].mean() >= share)
    return tuple(term for term in frequent if term.name != ACCURACY.name)


def inner_folds(table: Table, pool: Sequence[Term], rows: Mask) -> Iterator[Fold]:
    """Folds of whole tasks, kin left out, with everything that the fits of all subsets of the candidates need."""
    gap, train = table.numbers("gap.accuracy"), table.numbers(f"measure.{ACCURACY.name}")
    for _, fitted, held in by_task(table):
        known, left = fitted & rows, held & rows
        if known.sum() < FEWEST_ROWS or not left.any():
            continue
        x, asked = design(table, pool, known, left)
        weights = row_weights(table, IMAGES_3, known)
        shares, target = weights / weights.sum(), (gap - train)[known]
        centre, mean = shares @ x, float(shares @ target)
        weighted = (x - centre) * shares[:, None]
        task = table.codes("task")[left].astype(float)
        moments = (weighted.T @ (x - centre), weighted.T @ (target - mean), centre, mean)
        yield Fold(*moments, asked, train[left], gap[left], task)


def inner_errors(folds: Sequence[Fold], subsets: np.ndarray) -> Floats:
    """For each subset of candidates (rows of places), the mean error over held-out tasks, at its best strength."""
    of_task: list[list[Floats]] = [[] for _ in BALANCED_STRENGTHS]
    for fold in folds:
        gram = fold.gram[subsets[:, :, None], subsets[:, None, :]]
        offset = fold.asked[:, subsets] - fold.centre[subsets]  # (rows, subsets, features)
        tasks, place = np.unique(fold.task, return_inverse=True)
        average = np.eye(len(tasks))[place] / np.bincount(place)[place][:, None]
        for number, strength in enumerate(BALANCED_STRENGTHS):
            penalised = gram + strength * np.eye(subsets.shape[1])
            coefficients = np.linalg.solve(penalised, fold.moment[subsets][:, :, None])[:, :, 0]
            total = fold.mean + np.einsum("rsf,sf->rs", offset, coefficients) + fold.train[:, None]
            gaps = np.clip(total, 0, fold.train[:, None])
            of_task[number].append(average.T @ np.abs(gaps - fold.gap[:, None]))
    best: Floats = 100 * np.min([np.concatenate(errors).mean(axis=0) for errors in of_task], axis=0)
    return best


def chosen(table: Table, pool: Sequence[Term], rows: Mask) -> Choice:
    """Greedy forward selection on these rows."""
    folds, taken, errors = list(inner_folds(table, pool, rows)), list[int](), list[float]()
    while len(taken) < MOST:
        left = [place for place in range(len(pool)) if place not in taken]
        found = inner_errors(folds, np.array([[*taken, place] for place in left]))
        if errors and found.min() >= errors[-1]:
            break
        taken.append(left[int(found.argmin())])
        errors.append(float(found.min()))
    return Choice(tuple(pool[place] for place in taken), tuple(errors))


def nested(table: Table, pool: Sequence[Term], outer: Sequence[Split], among: Mask) -> tuple[Points, dict[str, Choice]]:
    """Held-out predictions of features chosen anew in every fold, and the choices."""
    codes, parts, choices = Codes.of(table), [], {}
    for name, fitted, held in outer:
        if codes.enough(fitted & among) and (held & among).any():
            choices[name] = chosen(table, pool, fitted & among)
            own = specification_of(name, choices[name].terms)
            gap = predicted_points(table, own, fitted & among, held & among, codes=codes)
            parts.append((np.flatnonzero(held & among), gap))
    rows, gaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(rows)
    return Points(rows[order], gaps[order]), choices


def by_tasks(draws: Resampling, errors: Floats, rows: np.ndarray, tasks: np.ndarray) -> Score:
    """The mean over tasks of their mean errors."""
    share = 1 / np.bincount(tasks)[tasks]
    return draws.ratio(errors * share, share, rows)


def scored(table: Table, held: dict[str, Points]) -> str:
    """Errors of the contenders on the same rows, what they err more than `images_v3`, and tau along training."""
    actual, draws, rows = table.numbers("gap.accuracy"), Resampling.of(table), held[NESTED].rows
    assert all(np.array_equal(points.rows, rows) for points in held.values())
    errors = {name: 100 * np.abs(points.gap - actual[rows]) for name, points in held.items()}
    _, tasks = np.unique(table.codes("task")[rows], return_inverse=True)
    maes = {name: by_tasks(draws, error, rows, tasks) for name, error in errors.items()}
    plain = {name: draws.mean(error, rows) for name, error in errors.items()}
    train, test = table.numbers(f"measure.{ACCURACY.name}")[rows], table.numbers("gap.test_accuracy")[rows]
    parts, runs = serving(table, rows, np.ones(len(rows), bool)), table.words("run")[rows]
    taus = {name: within(train - points.gap, test, runs, parts) for name, points in held.items()}
    beside = f"minus {IMAGES_3.name}'s"
    header = ["features", "error, tasks alike", beside, "error, rows alike", "tau, along training", beside]
    lines = []
    for name in held:
        more, order = (ranged(of[name].minus(of[IMAGES_3.name]).listed(), d) for of, d in ((maes, 1), (taus, 2)))
        cells = [ranged(maes[name].listed(), 1), more, ranged(plain[name].listed(), 1)]
        cells += [ranged(taus[name].listed(), 2), order]
        lines.append([name, *cells] if name != IMAGES_3.name else [name, cells[0], "", *cells[2:4], ""])
    optimism = ranged(maes[NESTED].minus(maes[ONCE]).listed(), 1)
    return f"{written(header, lines)}\n\n{NESTED.capitalize()} minus {ONCE}, tasks alike: {optimism} points."


def main() -> None:
    table = read(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    share = float(sys.argv[2]) if len(sys.argv) > 2 else 0.8
    among = development(table) & usable(table, IMAGES_3) & usable(table, DEFAULT_3) & usable(table, TRIVIAL_BASELINE)
    pool, before = candidates(table, among, share), int(among.sum())
    among &= finite(table, pool)
    runs, tasks = (len(set(table.words(column)[among])) for column in ("run", "task"))
    print(f"development part, {among.sum()} of {before} rows: {runs} runs, {tasks} tasks; {len(pool)} candidates\n")
    once = chosen(table, pool, among)
    print(f"{ONCE}: {listed(once)}")
    trivial = replace(TRIVIAL_BASELINE, name="trivial", balanced=True)
    contenders = {ONCE: specification_of(ONCE, once.terms), IMAGES_3.name: IMAGES_3, DEFAULT_3.name: DEFAULT_3}
    contenders |= {"trivial": trivial, "trivial, additive": replace(trivial, form="additive")}
    for name in OUTER:
        outer = splits(table)[name]
        points, choices = nested(table, pool, outer, among)
        underived = nested(table, [term for term in pool if term.name not in INGREDIENTS], outer, among)[0]
        others = {key: hold_out_points(table, one, outer, among) for key, one in contenders.items()}
        print(f"\n## {name}\n\n{scored(table, {NESTED: points, PLAIN: underived, **others})}\n")
        rows = [[left_out, listed(choice)] for left_out, choice in choices.items()]
        print(written(["left out", f"{NESTED}, with the inner error after each"], rows))
        times = Counter(term.name for choice in choices.values() for term in choice.terms)
        counts = ", ".join(f"{key} {count}" for key, count in times.most_common())
        print(f"\nOf {len(choices)} folds: {counts}", flush=True)


def listed(choice: Choice) -> str:
    """Features and errors in one line."""
    return ", ".join(f"{term.name} {error:.2f}" for term, error in zip(choice.terms, choice.errors, strict=True))


if __name__ == "__main__":
    main()
