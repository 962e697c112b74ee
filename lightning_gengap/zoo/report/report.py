"""The written report: Markdown from the numbers of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gengap.zoo.report.markdown import ranged, table
from lightning_gengap.zoo.report.report_failures import kinds_section, worst_section
from lightning_gengap.zoo.report.report_loss import loss_section

Scores = Mapping[str, Any]


def report(numbers: Scores, figures: Sequence[str] = ()) -> str:
    """Markdown of everything in `Assessment.report`, with links to the figures by file name."""
    facts, main = numbers["specification"], numbers["specification"]["name"]
    part = "all rows, the locked part included" if numbers["locked_part_used"] else "the development part alone"
    features = ", ".join(f"{name} ({transform})" for name, transform in facts["features"])
    left_out = f" Left out, missing in most rows: {', '.join(numbers['left_out'])}." if numbers["left_out"] else ""
    sections = {
        f"Evaluation of {main}": f"Features: {features}; re-fitted in every fold. "
        f"Table {numbers['table_sha256'][:12]}, lightning-gengap {numbers['package_version']}: {numbers['rows']} "
        f"snapshots of {numbers['runs']} runs in {numbers['tasks']} tasks, {part}.{left_out}\n\nErrors are in accuracy "
        "points; brackets hold 95 % intervals from 1,000 draws of tasks, then of runs within them.",
        "Held-out error": splits_table(numbers["splits"]),
        "Locked part": splits_table(numbers["locked"]) if numbers["locked"] else "Not scored: needs `--locked`.",
        "Held-out groups one by one": groups_table(numbers["splits"], main),
        "Interval and abstention": coverage_table(numbers["splits"] | prefixed(numbers["locked"])),
        "Loss gap": loss_section(numbers.get("loss head", {}), main),
        "Ranking within a task": ranking_section(numbers),
        "Turn within a run": turn_section(numbers),
        "Rank scores on full grids": _grids(numbers.get("grids", {})),
        "Stage of training": _stages(numbers),
        "Kinds of runs": kinds_section(numbers.get("kinds", {})),
        "Worst runs": worst_section(numbers.get("worst runs", {})),
        "One family on one data set": _in_family(numbers["in family"]),
        "Contributions": _contributions(numbers["contributions"]),
    }
    if figures:
        sections["Figures"] = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in figures)
    text = [f"{'#' if place == 0 else '##'} {title}\n\n{body}" for place, (title, body) in enumerate(sections.items())]
    return "\n\n".join(text) + "\n"


def splits_table(splits: Scores) -> str:
    """Error and R2 of every contender, and the skill, by split."""
    scored = {name: result for name, result in splits.items() if result["rows"]}
    empty = [name for name, result in splits.items() if not result["rows"]]
    notes = [f"{name}: {', '.join(r['skipped'])}" for name, r in splits.items() if r.get("skipped")]
    text = "No split leaves enough to fit on."
    if scored:
        names = list(next(iter(scored.values()))["mae"])
        rows = []
        for split, result in scored.items():
            cells = [f"{ranged(result['mae'][n], 1)}; {ranged(result['r2'][n], 2)}" for n in names]
            rows.append([f"{split} ({result['rows']})", *cells, ranged(result["skill"], 2)])
        text = "Mean absolute error; R². Skill: 1 - error / error of the trivial baseline. Rows in parentheses.\n\n"
        text += table(["split", *names, "skill"], rows)
    if empty or notes:
        text += f"\n\nHeld-out groups that leave too little to fit on: {'; '.join(notes or empty)}."
    return text


def groups_table(splits: Scores, main: str) -> str:
    """Every held-out family, data set, source and noise level."""
    rows = []
    for split, result in splits.items():
        for name, group in result.get("groups", {}).items():
            errors = [ranged(group["mae"][key], 1) for key in (main, "trivial", "constant")]
            coverage = ranged(group["coverage"]["kept"], 2)
            shares = [ranged(group["skill"], 2), coverage, f"{group['abstained']:.2f}"]
            rows.append([split, name, str(group["rows"]), *errors, *shares])
    header = ["split", "held out", "rows", "error", "trivial", "constant", "skill", "coverage", "abstained"]
    return table(header, rows)


def coverage_table(splits: Scores) -> str:
    """Coverage of the nominal 90 % interval, with and without abstentions."""
    rows = []
    for name, result in splits.items():
        if result["rows"]:
            covered, kept = result["coverage"]["counts"]
            shares = [ranged(result["coverage"]["kept"], 3), f"{covered} of {kept}"]
            rows.append([name, *shares, ranged(result["coverage"]["all"], 3), f"{result['abstained']:.3f}"])
    return table(["held out", "coverage of the 90 % interval", "rows", "with abstentions", "abstained"], rows)


def ranking_section(numbers: Scores) -> str:
    """Kendall's tau within held-out tasks beside the noise ceiling."""
    if "ranking" not in numbers:
        return "No held-out tasks."
    parts = [
        "Kendall's tau of predicted and actual test accuracy within held-out tasks with at least 1,000 test images and "
        "eight runs. Ceiling: what the true accuracies would reach, given the noise of the test sets."
    ]
    for name, result in numbers["ranking"].items():
        rows = [
            [contender, ranged(tau, 2), ranged(result["over trivial"].get(contender), 2)]
            for contender, tau in result["tau"].items()
        ]
        rows.append(["noise ceiling", ranged(result["ceiling"], 2), "-"])
        parts.append(f"{name.capitalize()}: {result['tasks']} tasks, {result['snapshots']} snapshots.")
        parts.append(table(["ranked by", "tau", "difference to trivial"], rows))
    return "\n\n".join(parts)


def turn_section(numbers: Scores) -> str:
    """Order and choice of snapshots within held-out runs."""
    if "turn" not in numbers or not numbers["turn"]["runs"]:
        return "No held-out run has six scored snapshots or more."
    turn = numbers["turn"]
    fewest = "six (no run has the ten that the protocol asks for)" if turn["short"] else "ten"
    rows = [
        [name, ranged(turn["tau"].get(name), 2), ranged(regret, 2), ranged(turn["gained over last"].get(name), 2)]
        for name, regret in turn["regret"].items()
    ]
    return (
        f"{turn['runs']} held-out runs with at least {fewest} scored snapshots. Regret: test points of the best "
        "snapshot (the oracle's) above the chosen one.\n\n"
        + table(["chosen by", "tau", "regret", "points gained over the last snapshot"], rows)
    )


def prefixed(locked: Scores) -> dict[str, Any]:
    """The locked parts under names that say so."""
    return {f"locked {name}": result for name, result in locked.items()}


def _stages(numbers: Scores) -> str:
    rows = []
    for name, stage in numbers.get("stages", {}).items():
        main = ranged(stage["mae"][numbers["specification"]["name"]], 1)
        trivial, signed = ranged(stage["mae"]["trivial"], 1), ranged(stage["signed"], 1)
        rows.append([name, str(stage["rows"]), main, trivial, signed, ranged(stage["skill"], 2)])
    return "Held out by task.\n\n" + table(
        ["stage", "rows", "error", "trivial", "predicted minus actual", "skill"], rows
    )


def _grids(grids: Scores) -> str:
    if not grids.get("grids"):
        return "The table holds no full grid (`recipe.grid`) in these rows."
    parts = [
        "PGDL: conditional mutual information of the signs of gap and measure differences, 0 to 100 (2012.07976). Sign "
        "errors over pairs of settings that differ in one hyperparameter (2010.11924): mean, worst, worst mean of one "
        "hyperparameter, and over pairs whose gaps differ by more than two standard errors; .5 is a coin."
    ]
    header = ["ranked by", "PGDL", "sign error", "worst", "worst hyperparameter", "resolved", "tau with the gap"]
    names = ("pgdl", "mean", "worst", "worst_axis", "resolved", "tau")
    rows = [[key, *(ranged(result[name], 2) for name in names)] for key, result in grids["mean"].items()]
    parts += [f"### Mean over {len(grids['grids'])} grids\n\n" + table(header, rows)]
    for name, grid in grids["grids"].items():
        axes = " x ".join(f"{axis} {levels}" for axis, levels in grid["axes"].items())
        rows = [
            [key, *("-" if n not in scores else f"{scores[n]:.2f}" for n in names)]
            for key, scores in grid["scores"].items()
        ]
        parts.append(f"### {name}: {grid['models']} models, {axes}\n\n" + table(header, rows))
    return "\n\n".join(parts)


def _in_family(results: Scores) -> str:
    if not results:
        return "No family has 30 converged runs on one data set in these rows."
    rows = [
        [name, str(r["runs"]), f"{r['adjusted R2 in sample']:.3f}", ranged(r["ten-fold R2"], 3)]
        for name, r in results.items()
    ]
    return table(["converged models", "runs", "adjusted R² in sample", "grouped ten-fold R²"], rows)


def _contributions(contributions: Scores) -> str:
    rows = [[name, ranged(c["mean"], 1), ranged(c["size"], 1)] for name, c in contributions.items()]
    return table(["feature", "mean contribution", "mean size"], rows)
