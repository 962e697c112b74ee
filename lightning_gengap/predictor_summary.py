"""Predictors described for people, as `gengap predictors` prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from lightning_gengap.predictors.files import available_predictors, load_predictor
from lightning_gengap.predictors.parts import FARTHEST_TRAIN_SAMPLES, Interval
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.recalibration import described

_PIPED_WIDTH = 10_000  # no line of a file is wrapped


def show_predictors() -> None:
    """Print the bundled predictors, one a line."""
    _show_table(("name", "predicts", "features", "runs", "tasks", "is"), (_listed(n) for n in available_predictors()))


def _listed(name: str) -> tuple[str, ...]:
    predictor = load_predictor(name)
    facts = predictor.provenance
    alias = predictor.name if predictor.name != name else ""
    features = sum(feature.coefficient != 0 for feature in predictor.features)  # the others only bound the support
    return name, predictor.target, str(features), str(facts["runs"]), str(facts["tasks"]), alias


def show_predictor(predictor: Predictor) -> None:
    """Print what a predictor predicts, from what, how well on held-out runs, and when not to use it."""
    facts = predictor.provenance
    _show(
        predictor.name,
        "",
        "Predicts     train minus test accuracy, in [0, 1], from training data alone",
        f"Fitted on    {facts['snapshots']} snapshots of {facts['runs']} runs in {facts['tasks']} tasks",
        *([f"Data sets    {', '.join(predictor.sources)}"] if predictor.sources else []),
        f"Measures     {', '.join(sorted(predictor.measures))}",
        f"Interval     {_interval(predictor.interval)}",
        *_parts(predictor),
        "",
        f"The gap is {predictor.intercept:.3g} plus, for each feature, coefficient x (transformed value - centre).",
        "The support is the range of the transformed value in the runs above.",
        "",
    )
    _show_table(
        ("feature", "transform", "coefficient", "centre", "support"),
        (
            (f.name, f.transform, f"{f.coefficient:+.3g}", f"{f.centre:.3g}", f"{f.low:.3g} to {f.high:.3g}")
            for f in predictor.features
        ),
    )
    _show_scores(predictor)
    _show(
        "",
        "When not to use it",
        f"  * For {', '.join([*facts.get('lacking', ()), 'regression'])}: the runs above include none.",
        "  * For a test set from another distribution than the training set: a shift cannot be seen in training data.",
        "  * Where it abstains: a feature is missing, or lies more than a standard deviation outside its support.",
        f"    So it does for training sets more than {FARTHEST_TRAIN_SAMPLES:g} times as large as the largest above,",
        "    and where the train accuracy is less than a quarter of the way from chance to 1.",
    )


def _interval(interval: Interval) -> str:
    lower, upper = (
        f"gap {'-' if end < 0 else '+'} {abs(end):.3g} x (gap + {interval.offset:g})"
        for end in (interval.below, interval.above)
    )
    return f"{interval.level:.0%}, from {lower} to {upper}; wider outside the support"


def _parts(predictor: Predictor) -> Iterator[str]:
    """What a predictor has besides its features."""
    for component in predictor.specification.components:
        yield f"{component.kind.capitalize():12} {component.described()}"
    if predictor.loss_head is not None:
        yield f"Loss gap     predicted too, from {', '.join(f.name for f in predictor.loss_head.features)}"
    if predictor.preferred is not None:
        yield f"On images    {predictor.preferred.name} predicts in its place"
    if predictor.observed:
        yield f"Recalibrated {described(predictor)}"


def _show_scores(predictor: Predictor) -> None:
    rows = list(_scores(predictor))
    if not rows:
        _show("", "Not scored on held-out runs.")
        return
    _show("", "Scores on held-out runs: mean absolute errors in accuracy points, with 95 % intervals.", "")
    _show_table(("held out", "rows", "error", "error of the trivial baseline", "coverage of the interval"), rows)


def _scores(predictor: Predictor) -> Iterator[tuple[str, ...]]:
    name, by_run = predictor.name.partition("+")[0], predictor.scores.get("by run")
    for held_out, split in predictor.scores.get("splits", {}).items():
        if name in split.get("mae", {}):
            errors, covered = split["mae"], split["coverage"]["all"]
            yield held_out, str(split["rows"]), _spread(errors[name]), _spread(errors["trivial"]), f"{covered[0]:.2f}"
    if by_run and name in by_run:  # of one grid
        own, trivial = by_run[name], by_run["trivial"]
        for part in ("all snapshots", "converged"):
            errors, covered = own[part], own["coverage"][part]
            yield (
                f"by run, {part}",
                str(errors["rows"]),
                _spread(errors["mae"]),
                _spread(trivial[part]["mae"]),
                f"{covered[0]:.2f}",
            )


def _spread(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def _show_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their titles, in columns; a column of numbers is aligned on the right."""
    listed = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        numeric = all(_is_number(row[place]) for row in listed)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    _show(table)


def _show(*parts: object) -> None:
    """Print to standard output, each part on a line of its own; square brackets in a text are no markup."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    for part in parts:
        console.print(part)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell
    return True
