"""The model card of a predictor, written from its own scores."""

from __future__ import annotations

from typing import Any

from lightning_gengap.predictor import Predictor
from lightning_gengap.zoo.table import Table


def card(predictor: Predictor, table: Table) -> str:
    """Markdown: what it was fitted on, how far it reaches, how good it is on held-out groups, when not to use it."""
    facts, scores = predictor.provenance, predictor.scores
    parts = [
        f"# {predictor.name}",
        f"Predicts train minus test accuracy (fraction) of an image classifier from its training data. Form: "
        f"{predictor.form.replace('_', ' ')}; ridge strength {facts['ridge_strength']}; fitted on "
        f"{facts['snapshots']} snapshots of {facts['runs']} runs in {facts['tasks']} tasks. Written by `zoo fit`.",
        "## Fitted on\n\n" + _composition(table),
        "## Features\n\n" + _features(predictor),
        "## Held-out scores\n\nMean absolute error in accuracy points [95 % interval, bootstrap over tasks]; R² below "
        f"it. All contenders on the same {scores['rows']} rows of {scores['runs']} runs: those with train accuracy "
        "above the level at which every predictor abstains. Abstentions count with the prior mean.\n\n"
        + _splits(scores["splits"]),
        "### Locked part\n\nNot seen by feature research: fitted on the development part, scored once.\n\n"
        + _splits(scores["locked"]),
        "### Held-out groups one by one\n\n" + _groups(scores["splits"], predictor.name),
        "### Interval and abstention\n\n" + _coverage({**scores["splits"], **_prefixed(scores["locked"])}),
        "### Ranking within a task, turn within a run\n\n" + _ranking(scores),
        "## When not to use it\n\nTabular data, text, regression, networks trained from pretrained weights, label "
        "smoothing or mixed labels: the zoo holds no such runs. Train sizes beyond 20 times the largest above, and "
        "features more than one deviation beyond the zoo's range, make it abstain. It predicts the gap to a test set "
        "from the same distribution; a shift is invisible to it.",
    ]
    return "\n\n".join(parts) + "\n"


def _composition(table: Table) -> str:
    runs = dict(zip(table.columns["run"], range(len(table)), strict=True))
    rows = ["| " + " | ".join(("what", "runs")) + " |", "|---|---|"]
    for column in ("recipe.source", "recipe.family", "recipe.noise", "recipe.optimizer", "recipe.augment"):
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


def _splits(splits: dict[str, Any]) -> str:
    names = list(next(iter(splits.values()))["mae"])
    rows = ["| split | " + " | ".join(names) + " | skill over trivial |", "|---" * (len(names) + 2) + "|"]
    for split, result in splits.items():
        cells = [f"{_ranged(result['mae'][name], 1)}; {result['r2'][name]:.2f}" for name in names]
        rows.append(f"| {split} ({result['rows']}) | " + " | ".join(cells) + f" | {_ranged(result['skill'], 2)} |")
    return "\n".join(rows)


def _groups(splits: dict[str, Any], main: str) -> str:
    rows = ["| split | held out | rows | error | trivial | constant | coverage | abstained |", "|---" * 8 + "|"]
    for split, result in splits.items():
        for name, group in result.get("groups", {}).items():
            mae = group["mae"]
            coverage = "-" if group["coverage"] is None else f"{group['coverage']:.2f}"
            rows.append(
                f"| {split} | {name} | {group['rows']} | {mae[main]:.1f} | {mae['trivial']:.1f} "
                f"| {mae['constant']:.1f} | {coverage} | {group['abstained']:.2f} |"
            )
    return "\n".join(rows)


def _coverage(splits: dict[str, Any]) -> str:
    rows = ["| held out | coverage of the 90 % interval | with abstentions | abstained |", "|---|---|---|---|"]
    for name, result in splits.items():
        kept, every = result["coverage"]["kept"], result["coverage"]["all"]
        rows.append(f"| {name} | {_ranged(kept, 3)} | {every:.3f} | {result['abstained']:.3f} |")
    return "\n".join(rows)


def _ranking(scores: dict[str, Any]) -> str:
    rows = [f"Kendall's tau of predicted and actual test accuracy within {scores['ranking']['tasks']} held-out tasks "]
    rows[0] += "(all snapshots, at least 1,000 test samples):\n"
    rows += ["| ranked by | tau |", "|---|---|"]
    rows += [f"| {name} | {_ranged(value, 2)} |" for name, value in scores["ranking"].items() if name != "tasks"]
    turn = scores["turn"]
    rows.append(
        f"\nRegret of the snapshot with the highest predicted test accuracy, in test points, over {turn['runs']} "
        f"held-out runs: {_ranged(turn['chosen'], 2)}; of the last snapshot {_ranged(turn['last'], 2)}."
    )
    return "\n".join(rows)


def _prefixed(locked: dict[str, Any]) -> dict[str, Any]:
    return {f"locked {name}": result for name, result in locked.items()}


def _ranged(values: list[float], digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"
