"""The model card of a predictor, written from its own scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.report.report import (
    coverage_table,
    groups_table,
    prefixed,
    ranking_section,
    splits_table,
    turn_section,
)
from lightning_gengap.zoo.report.report_loss import loss_section
from lightning_gengap.zoo.table import Mask, Table

_COMPOSITION = ("recipe.source", "recipe.family", "recipe.noise", "recipe.optimizer", "recipe.augment")


def card(predictor: Predictor, table: Table, figures: Sequence[str] = ()) -> str:
    """Markdown: what it was fitted on, how far it reaches, how good it is on held-out groups, when not to use it.

    Args:
        predictor: with the scores of `evaluation.scores`.
        table: what it was fitted to, with the rows that the fit had to leave out.
        figures: paths, relative to the card, of figures to show.
    """
    facts, scores = predictor.provenance, predictor.scores
    parts = [
        f"# {predictor.name}",
        f"Predicts train minus test accuracy (fraction) of an image classifier from its training data. Ridge strength "
        f"{facts['ridge_strength']}; fitted on {facts['snapshots']} snapshots of {facts['runs']} runs in "
        f"{facts['tasks']} tasks. Written by `zoo fit`.",
        "## Fitted on\n\n" + _composition(table, predictor),
        "## Features\n\n" + _features(predictor),
        "## Held-out scores\n\nErrors in accuracy points, 95 % intervals by resampling tasks, then runs. All "
        f"contenders on the same {scores['rows']} rows of {scores['runs']} runs: those with train accuracy above the "
        "level at which every predictor abstains. Abstentions count with the prior mean.\n\n"
        + splits_table(scores["splits"]),
        "### Locked part\n\nNot seen by feature research: fitted on the development part.\n\n"
        + splits_table(scores["locked"]),
        "### Held-out groups one by one\n\n" + groups_table(scores["splits"], predictor.name),
        "### Interval and abstention\n\n" + coverage_table({**scores["splits"], **prefixed(scores["locked"])}),
        *_loss_head(predictor),
        "### Ranking within a task\n\n" + ranking_section(scores),
        "### Turn within a run\n\n" + turn_section(scores),
        *(["## Figures\n\n" + "\n\n".join(f"![{name}]({name})" for name in figures)] if figures else []),
        "## When not to use it\n\nText, regression, label smoothing or mixed labels: the zoo holds no such runs. "
        "Tabular data and pretrained starts: it holds few. Train sizes beyond 20 times the largest above, and "
        "features more than one deviation beyond the zoo's range, make it abstain. It predicts the gap to a test set "
        "from the same distribution; a shift is invisible to it.",
    ]
    return "\n\n".join(parts) + "\n"


def _composition(table: Table, predictor: Predictor) -> str:
    """What the fitted rows are made of, and what was left out of the table and why."""
    fitted = usable(table, predictor.specification)
    runs, tasks = table.words("run"), table.words("task")
    counts = (fitted.sum(), len(set(runs[fitted])), len(set(tasks[fitted])))
    rows = []
    for column in _COMPOSITION:
        if column in table.columns:
            values = table.words(column)
            kinds = {value: len(set(runs[fitted & (values == value)])) for value in sorted(set(values[fitted]))}
            listed = ", ".join(f"{value or 'none'} {count}" for value, count in kinds.items())
            rows.append([column.removeprefix("recipe."), listed])
    sources = table.words("recipe.source")
    listed = ", ".join(f"{s} {len(set(tasks[fitted & (sources == s)]))}" for s in sorted(set(sources[fitted])))
    rows.append(["tasks by source", listed])
    places = np.flatnonzero(fitted)
    first = places[np.unique(runs[places], return_index=True)[1]]
    samples = table.numbers("measure.train_samples")[first]
    quarters = np.quantile(samples, [0, 0.25, 0.5, 0.75, 1])
    rows.append(["train samples (least, quartiles, most)", ", ".join(f"{quarter:.0f}" for quarter in quarters)])
    return (
        f"Of the table's {len(table)} snapshots of {len(set(runs))} runs, {counts[0]} snapshots of {counts[1]} runs in "
        f"{counts[2]} tasks; what they are made of is counted in runs.\n\n"
        + markdown_table(["what", "runs"], rows)
        + "\n\n"
        + _left_out(table, predictor.specification.needs, fitted)
    )


def _left_out(table: Table, needs: Sequence[str], fitted: Mask) -> str:
    runs = table.words("run")
    missing = {name: ~np.isfinite(table.numbers(f"measure.{name}")) for name in needs}
    lacking = np.logical_or.reduce([np.zeros(len(table), bool), *missing.values()])
    gone = set(runs[~fitted]) - set(runs[fitted])
    if fitted.all():
        return "Nothing was left out."
    # A run of which some snapshots lack a feature and the others are too early counts as too early.
    early = {run for run in set(runs[~fitted & ~lacking]) if run in gone}
    without = gone - early
    names = ", ".join(
        f"{name} {count}" for name, absent in missing.items() if (count := len(without & set(runs[absent])))
    )
    return (
        f"Left out: {len(gone)} runs wholly, {len(without)} for want of a feature"
        + (f" ({names})" if names else "")
        + f" and {len(early)} whose train accuracy stays below the level at which the predictor abstains; in "
        f"snapshots, {int((~fitted & lacking).sum())} and {int((~fitted & ~lacking).sum())}."
    )


def _loss_head(predictor: Predictor) -> list[str]:
    """The head's coefficients and its held-out scores."""
    if predictor.loss_head is None:
        return []
    rows = [
        [f.name, f.transform, f"{f.coefficient * f.deviation:+.3f}", f"{f.low:.3g} to {f.high:.3g}"]
        for f in predictor.loss_head.features
    ]
    header = ["feature of the log of the loss gap", "transform", "coefficient x deviation", "zoo's range (transformed)"]
    found = predictor.scores.get("loss head")
    scores = loss_section(found, predictor.name) if found else "Not scored."
    return [f"### Loss gap\n\n{markdown_table(header, rows)}\n\n{scores}"]


def _features(predictor: Predictor) -> str:
    rows = ["| feature | transform | coefficient x deviation | zoo's range (transformed) |", "|---|---|---|---|"]
    for f in predictor.features:
        effect = f.coefficient * f.deviation
        rows.append(f"| {f.name} | {f.transform} | {effect:+.3f} | {f.low:.3g} to {f.high:.3g} |")
    listed = "\n".join(rows)
    if predictor.memoriser is None:
        return listed
    return (
        f"{listed}\n\nMemoriser: where the predicted test accuracy is below `{predictor.memoriser.name}` or the train "
        f"accuracy, whichever is smaller, {predictor.memoriser.kept:g} of the difference is kept."
    )
