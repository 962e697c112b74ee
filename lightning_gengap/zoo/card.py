"""The model card of a predictor, written from its own scores."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_gengap.predictor import Predictor
from lightning_gengap.zoo.report import (
    coverage_table,
    groups_table,
    prefixed,
    ranking_section,
    splits_table,
    turn_section,
)
from lightning_gengap.zoo.table import Table

_COMPOSITION = ("recipe.source", "recipe.family", "recipe.noise", "recipe.optimizer", "recipe.augment")


def card(predictor: Predictor, table: Table, figures: Sequence[str] = ()) -> str:
    """Markdown: what it was fitted on, how far it reaches, how good it is on held-out groups, when not to use it.

    Args:
        predictor: with the scores of `evaluation.scores`.
        table: what it was fitted to.
        figures: paths, relative to the card, of figures to show.
    """
    facts, scores = predictor.provenance, predictor.scores
    parts = [
        f"# {predictor.name}",
        f"Predicts train minus test accuracy (fraction) of an image classifier from its training data. Form: "
        f"{predictor.form.replace('_', ' ')}; ridge strength {facts['ridge_strength']}; fitted on "
        f"{facts['snapshots']} snapshots of {facts['runs']} runs in {facts['tasks']} tasks. Written by `zoo fit`.",
        "## Fitted on\n\n" + _composition(table),
        "## Features\n\n" + _features(predictor),
        "## Held-out scores\n\nErrors in accuracy points, 95 % intervals by resampling tasks, then runs. All "
        f"contenders on the same {scores['rows']} rows of {scores['runs']} runs: those with train accuracy above the "
        "level at which every predictor abstains. Abstentions count with the prior mean.\n\n"
        + splits_table(scores["splits"]),
        "### Locked part\n\nNot seen by feature research: fitted on the development part.\n\n"
        + splits_table(scores["locked"]),
        "### Held-out groups one by one\n\n" + groups_table(scores["splits"], predictor.name),
        "### Interval and abstention\n\n" + coverage_table({**scores["splits"], **prefixed(scores["locked"])}),
        "### Ranking within a task\n\n" + ranking_section(scores),
        "### Turn within a run\n\n" + turn_section(scores),
        *(["## Figures\n\n" + "\n\n".join(f"![{name}]({name})" for name in figures)] if figures else []),
        "## When not to use it\n\nText, regression, label smoothing or mixed labels: the zoo holds no such runs. "
        "Tabular data and pretrained starts: it holds few. Train sizes beyond 20 times the largest above, and "
        "features more than one deviation beyond the zoo's range, make it abstain. It predicts the gap to a test set "
        "from the same distribution; a shift is invisible to it.",
    ]
    return "\n\n".join(parts) + "\n"


def _composition(table: Table) -> str:
    runs = dict(zip(table.columns["run"], range(len(table)), strict=True))
    rows = ["| " + " | ".join(("what", "runs")) + " |", "|---|---|"]
    for column in _COMPOSITION:
        if column not in table.columns:
            continue
        counts: dict[str, int] = {}
        for row in runs.values():
            counts[table.columns[column][row]] = counts.get(table.columns[column][row], 0) + 1
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        rows.append(f"| {column.removeprefix('recipe.')} | {listed} |")
    sizes = [int(float(table.columns["measure.train_samples"][row])) for row in runs.values()]
    rows.append(f"| train samples | {min(sizes)} to {max(sizes)} |")
    return "\n".join(rows)


def _features(predictor: Predictor) -> str:
    rows = ["| feature | transform | coefficient x deviation | zoo's range (transformed) |", "|---|---|---|---|"]
    for f in predictor.features:
        effect = f.coefficient * f.deviation
        rows.append(f"| {f.name} | {f.transform} | {effect:+.3f} | {f.low:.3g} to {f.high:.3g} |")
    return "\n".join(rows)
