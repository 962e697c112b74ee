"""The written report: Markdown from the numbers of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_gengap.zoo.report.markdown import render


def report(numbers: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The page of what `zoo.evaluate.scores` found, or of a report.json file; figures are file names."""
    return render("report.md.j2", numbers=numbers, figures=figures)
