"""The part of the written report, and of the card, on the loss-gap head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_gengap.zoo.report.markdown import ranged, table

Scores = Mapping[str, Any]


def loss_section(scores: Scores, main: str) -> str:
    """Errors, rank correlation and coverage of the predicted loss gap by split, and its order within tasks."""
    if not scores:
        return "No loss-gap head, or no loss gap in the table."
    scored = {name: result for name, result in scores["splits"].items() if result["rows"]}
    if not scored:
        return "No split leaves enough to fit on."
    floor = scores["floor"]
    names = list(next(iter(scored.values()))["mae"])
    parts = [
        f"Test minus train loss on {scores['rows']} rows. The head is linear in the log of the gap; the baselines are "
        "fitted the same way (constant: the geometric mean). In logs, gaps below "
        f"{floor} nats, negative ones too, count as {floor}; errors in nats take them as they are. While the predictor "
        "abstains, the head's prior counts."
    ]
    for kind, unit, skill in (("", "in nats", "skill"), ("log ", "of the log", "log skill")):
        rows = []
        for split, result in scored.items():
            cells = [f"{ranged(result[f'{kind}mae'][n], 3)}; {ranged(result[f'{kind}r2'][n], 2)}" for n in names]
            rows.append([f"{split} ({result['rows']})", *cells, ranged(result[skill], 2)])
        parts.append(f"Mean absolute error {unit}; R². Skill: 1 - error / error of the trivial baseline.")
        parts.append(table(["split", *names, "skill"], rows))
    rows = []
    for split, result in scored.items():
        coverage, (covered, kept) = result["coverage"], result["coverage"]["counts"]
        ranks = [ranged(result["rank correlation"].get(n), 2) for n in names if n != "constant"]
        shares = [ranged(coverage["kept"], 3), f"{covered} of {kept}", ranged(coverage["floored"], 3)]
        rows.append([split, *ranks, *shares, f"{result['below floor']:.3f}", f"{result['abstained']:.3f}"])
    ranks = [f"rank correlation, {n}" for n in names if n != "constant"]
    header = ["split", *ranks, "coverage of the 90 % interval", "rows", f"coverage, gaps below {floor} as {floor}"]
    parts.append("Spearman's correlation over all held-out rows, and coverage without abstentions.")
    parts.append(table([*header, f"share of gaps below {floor}", "abstained"], rows))
    if ranking := _ranking(scores.get("ranking", {})):
        parts.append(ranking)
    if grouped := _groups(scored, main):
        parts.append(grouped)
    return "\n\n".join(parts)


def _ranking(ranking: Scores) -> str:
    parts = []
    for name, result in ranking.items():
        rows = [[contender, ranged(tau, 2)] for contender, tau in result["tau"].items()]
        parts.append(f"{name.capitalize()}: {result['tasks']} tasks, {result['snapshots']} snapshots.")
        parts.append(table(["ranked by", "tau with the loss gap within held-out tasks"], rows))
    return "\n\n".join(parts)


def _groups(splits: Scores, main: str) -> str:
    rows = []
    for split, result in splits.items():
        for name, group in result.get("groups", {}).items():
            errors = [ranged(group["mae"][key], 3) for key in (main, "trivial", "constant")]
            shares = [ranged(group["log mae"][main], 2), ranged(group["log skill"], 2)]
            rows.append([split, name, str(group["rows"]), *errors, *shares, ranged(group["coverage"]["kept"], 2)])
    header = ["split", "held out", "rows", "error, nats", "trivial", "constant"]
    return table([*header, "error of the log", "skill in the log", "coverage"], rows) if rows else ""
