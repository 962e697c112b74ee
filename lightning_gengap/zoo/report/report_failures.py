"""The part of the written report on where predictions fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gengap.zoo.report.markdown import ranged, table


def kinds_section(kinds: Mapping[str, Any]) -> str:
    """Error by family, source, augmentation, label noise and optimizer."""
    if not kinds:
        return "No held-out tasks."
    rows = [
        [
            *(kind, value or "-", *(str(one[count]) for count in ("rows", "runs", "tasks"))),
            *(ranged(one[score], 1) for score in ("mae", "trivial", "signed")),
            ranged(one["skill"], 2),
        ]
        for kind, values in kinds.items()
        for value, one in values.items()
    ]
    header = ["kind", "value", "rows", "runs", "tasks", "error", "trivial", "predicted minus actual", "skill"]
    return "Held out by task; other tasks of the same kind stay in the fit.\n\n" + table(header, rows)


def worst_section(worst: Mapping[str, Any]) -> str:
    """The worst runs, one per row, and the worst that were answered."""
    if not worst:
        return "No held-out tasks."
    parts = [
        f"The {len(worst['all'])} runs with the largest mean error over their scored snapshots, held out by task. "
        "Accuracies, gaps (points) and contributions (points away from the fit's mean) are those of the last scored "
        "snapshot; the feature with the largest contribution towards the error misled most. Abstentions predict the "
        "prior mean, from no feature.",
        _worst(worst["all"]),
    ]
    if worst["answered"]:
        parts += ["Without abstentions:", _worst(worst["answered"])]
    return "\n\n".join(parts)


def _worst(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in runs:
        facts = [one["run"], one["task"], one["family"], one["source"], one["train_samples"], one["noise"]]
        accuracies = [f"{one[name]:.3f}" for name in ("train accuracy", "test accuracy")]
        gaps = [f"{one['error']:.1f} ({one['snapshots']})", f"{one['predicted']:.1f}", f"{one['actual']:.1f}"]
        named = ["abstained", "-"] if one["abstained"] else [_named(one[kind]) for kind in ("largest", "misled")]
        rows.append([*facts, one["augment"], *accuracies, *gaps, *named, ", ".join(one["outside"]) or "-"])
    header = ["run", "task", "family", "source", "train samples", "noise", "augment", "train accuracy", "test accuracy"]
    header += ["mean error (snapshots)", "predicted", "actual", "largest contribution", "largest towards the error"]
    return table([*header, "beyond the fitted range"], rows)


def _named(contribution: Sequence[Any] | None) -> str:
    return "-" if contribution is None else f"{contribution[0]} {contribution[1]:+.1f}"
