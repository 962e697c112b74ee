"""The parts of the written report on measures: groups of them, each by itself, and the scarce ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_gengap.zoo.report.markdown import ranged, table

Scores = Mapping[str, Any]


def contest_table(result: Scores) -> str:
    """Error of each contender by split, and what it gains over the first."""
    splits = result["splits"]
    contenders = list(dict.fromkeys(name for split in splits.values() for name in split))
    rows = [
        [name, *(f"{ranged(split[name]['mae'], 1)}; {ranged(split[name]['gain'], 1)}" for split in splits.values())]
        for name in contenders
    ]
    header = [contenders[0], *splits] if len(contenders) == 1 else ["contender", *splits]
    return f"{result['rows']} rows of {result['runs']} runs. Error; points gained over the reference.\n\n" + table(
        header, rows
    )


def groups_section(groups: Scores, main: str) -> str:
    """What each group adds to the trivial features and to the specification, where it was measured."""
    absent = f" Not measured in these rows: {', '.join(groups['absent'])}." if groups["absent"] else ""
    parts = [
        "Every group on the rows where it was measured: accuracy points of error that it saves, and what it adds to "
        "Kendall's tau of predicted and actual test accuracy within tasks, over the same features without it, fitted "
        "and scored on the same rows. Scarce groups are those on less than half of the rows; "
        f"their ridge strength is chosen by task, and fewer than 20 tasks are held out one by one.{absent}"
    ]
    rows = []
    for name, group in groups["added"].items():
        dropped = f"; not scored: {', '.join(group['dropped'])}" if group["dropped"] else ""
        counts = [str(group[count]) for count in ("rows", "runs", "tasks", "families")]
        rows.append([name, *counts, ", ".join(group["keys"]) + dropped])
    parts.append(table(["group", "rows", "runs", "tasks", "families", "measures"], rows))
    for split in next(iter(groups["added"].values()), {"splits": {}})["splits"]:
        parts.append(f"### Each group added, {split}\n\n" + _added(groups["added"], split, main))
    if groups["taken"]:
        parts.append("### Each group taken from all\n\n" + contest_table(groups["taken"]))
    return "\n\n".join(parts)


def _added(added: Scores, split: str, main: str) -> str:
    kinds = ("trivial + group", f"{main} + group", f"{main} - group")
    rows = []
    for name, group in added.items():
        result = group["splits"][split]
        if "too few" in result:
            rows.append([name, f"too few {result['too few']} ({result['count']})", *["-"] * 9])
            continue
        counts = f"{result['rows']} of {result['tasks']}"
        errors = [ranged(result["mae"][contender], 1) for contender in ("trivial", main)]
        gains = [ranged(result["mae gain"].get(kind), 1) for kind in kinds]
        if "tau gain" in result:
            gains += [ranged(result["tau gain"].get(kind), 2) for kind in kinds]
        else:
            gains += [f"too few tasks ({result['ranked tasks']})", "-", "-"]
        rows.append([name, counts, *errors, *gains, str(result["ranked tasks"])])
    header = ["group", "rows of tasks", "error, trivial", f"error, {main}"]
    header += [f"points saved: {kind}" for kind in kinds] + [f"tau added: {kind}" for kind in kinds]
    return table([*header, "ranked tasks"], rows)


def singles_section(singles: Scores) -> str:
    """Every measure alone and beside the trivial features."""
    rows = []
    for key, result in singles.items():
        errors = [ranged(result["splits"]["by task"][kind], 1) for kind in ("alone", "added")]
        skills = [ranged(split["skill"], 2) for split in result["splits"].values()]
        rows.append([key, str(result["rows"]), *errors, *skills, *(ranged(tau, 2) for tau in result["tau"].values())])
    splits = list(next(iter(singles.values()))["splits"]) if singles else []
    return (
        "Error by task, alone and beside the trivial features; skill beside them over them alone, on the rows that "
        "have the measure; tau with the test accuracy within tasks (below zero: the smaller, the better).\n\n"
        + table(
            ["measure", "rows", "alone", "added", *(f"skill {s}" for s in splits), "tau along training", "converged"],
            rows,
        )
    )


def scarce_section(scarce: Scores, main: str) -> str:
    """Scarce measures as rankings among last snapshots."""
    if not scarce:
        return "No measure is on less than half of the rows."
    rows = []
    few: dict[int, list[str]] = {}
    for key, result in scarce.items():
        if "gap" not in result:
            few.setdefault(result["tasks"], []).append(key)
            continue
        taus = [
            ranged(result[target][name], 2)
            for target in ("gap", "test")
            for name in ("tau", "size over train loss", "size over specification")
        ]
        rows.append([key, str(result["rows"]), str(result["tasks"]), *taus])
    over = ["size minus train loss's", f"size minus {main}'s"]
    parts = [
        "Measures on less than half of the rows, as rankings of last snapshots within every task that has them at five "
        "runs or more (eight runs in the table, 1,000 test images): Kendall's tau, and how much its size exceeds that "
        "of the train loss, and the tau of the predictions held out by task, on the same snapshots. Sizes flatter "
        "measures without a direction."
    ]
    if rows:
        header = ["measure", "snapshots", "tasks", "tau with the gap", *over, "tau with the test accuracy", *over]
        parts.append(table(header, rows))
    parts += [f"Too few tasks ({count}): {', '.join(keys)}." for count, keys in sorted(few.items())]
    return "\n\n".join(parts)


def learning_curve_section(curve: Scores) -> str:
    """Error over the number of runs that the fit was offered."""
    parts = []
    for name, points in curve.items():
        rows = [
            [
                *(size, str(p["rows"]), ranged(p["mae"], 1), ranged(p["trivial"], 1), f"{p['r2']:.2f}"),
                *(ranged(p["skill"], 2), f"{p['between draws'][0]:.1f} to {p['between draws'][1]:.1f}"),
            ]
            for size, p in points.items()
        ]
        header = ["runs offered", "rows", "error", "trivial", "R²", "skill", "error between draws of runs"]
        parts.append(f"{name.capitalize()}:\n\n" + table(header, rows))
    return "\n\n".join(parts)


def fitted_stage_section(stages: Scores) -> str:
    """Error by the stage of training that was fitted and that was scored."""
    rows = [[name, str(one["rows"]), ranged(one["mae"], 1)] for name, one in stages.items()]
    return table(["scored and fitted on", "rows", "error"], rows)
