"""What is published of a predictor: its file with its card, and its report. All is made before the first is written."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from lightning_gengap.errors import ConfigurationError, closest
from lightning_gengap.predictors.files import dumps, load_predictor
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.evaluate.one_family import scored_by_run
from lightning_gengap.zoo.evaluate.scores import assess
from lightning_gengap.zoo.evaluate.split_scores import check_scores, scores
from lightning_gengap.zoo.files import refuse_overwriting
from lightning_gengap.zoo.fit.fit import check_fit, usable
from lightning_gengap.zoo.fit.loss_head import fit_with_head
from lightning_gengap.zoo.fit.scales import fitted_scales
from lightning_gengap.zoo.fit.specifications import DEFAULT_3, SPECIFICATIONS
from lightning_gengap.zoo.report import figures
from lightning_gengap.zoo.report.card import card
from lightning_gengap.zoo.report.one_family_card import one_family_card
from lightning_gengap.zoo.report.one_family_figure import draw, shown
from lightning_gengap.zoo.report.report import report
from lightning_gengap.zoo.table import Table, read


def fit_to_files(table_path: Path, out: Path, name: str, like: str | None, *, scored: bool) -> Predictor:
    """Fit a predictor, and write its file `out`, its card and, of one grid alone, its figure.

    It has the features of the bundled predictor `like`, by default of the one called `name`, or of `default_v3`.
    Without scores, which take minutes, there is no card.
    """
    card_path, figure_path = _paths_beside(out)
    chosen = _specification(name, like)
    if chosen.grid:
        refuse_overwriting(figure_path)
    table, specification = read(table_path), replace(chosen, name=name)
    check_fit(table, specification)
    if scored:
        check_scores(table, specification)
    predictor = fit_with_head(table, specification)
    files: dict[Path, bytes] = {}
    if scored and specification.grid:
        predictor, files = _scored_by_run(predictor, table, card_path, figure_path)
    elif scored:
        scales = fitted_scales(table, specification, usable(table, specification))
        predictor = replace(predictor, scales=scales, scores=scores(table, specification))
        files = {card_path: card(predictor, table, _figures_beside(out)).encode()}
    for path, content in (files | {out: dumps(predictor).encode()}).items():
        path.write_bytes(content)
    return predictor


def _scored_by_run(
    predictor: Predictor, table: Table, card_path: Path, figure_path: Path
) -> tuple[Predictor, dict[Path, bytes]]:
    """The predictor of one grid with its scores, and its card and figure as files."""
    listed, held = scored_by_run(table, predictor.specification)
    predictor = replace(predictor, scores=listed)
    figure = {figure_path: draw(shown(predictor, table, held))} if figures.drawable() else {}
    return predictor, figure | {card_path: one_family_card(predictor, figure_path.name if figure else "").encode()}


def _paths_beside(out: Path) -> tuple[Path, Path]:
    """Where card and figure go; refused where `out` or the card cannot be written."""
    card_path, figure_path = (out.with_suffix(suffix) for suffix in (".md", ".png"))
    if out in (card_path, figure_path):
        kind = "card" if out == card_path else "figure"
        raise ConfigurationError(
            f"--out {out}", got=f"the path of the {kind}", expected="a .json file", remedy="Name it *.json."
        )
    refuse_overwriting(out)
    refuse_overwriting(card_path)
    return card_path, figure_path


def _specification(name: str, like: str | None) -> Specification:
    if like is None:
        return SPECIFICATIONS.get(name, DEFAULT_3)
    if like not in SPECIFICATIONS:
        raise ConfigurationError(
            f"--like {like}",
            got="an unknown name",
            expected=f"one of {', '.join(SPECIFICATIONS)}",
            remedy=f"{closest(like, SPECIFICATIONS)} Left out, it is default_v3.",
        )
    return SPECIFICATIONS[like]


def _figures_beside(out: Path) -> list[str]:
    """Figures of `evaluate_to_folder`, where its folder is called evaluation_<name> and lies beside the predictor."""
    drawn = sorted(out.with_name(f"evaluation_{out.stem}").glob("*.png"))
    return [path.relative_to(out.parent).as_posix() for path in drawn]


def evaluate_to_folder(table_path: Path, predictor: str, out: Path, locked: bool, drawing: bool | None) -> str:
    """Write report.md, report.json and figures about a predictor's features, fitted anew in every fold.

    The folder may exist, but not hold a report. By default, figures are drawn where matplotlib is installed. Returns
    the report as Markdown.
    """
    drawing = figures.drawable() if drawing is None else drawing
    if drawing:
        figures.require()
    if out.exists() and not out.is_dir():
        refuse_overwriting(out)
    paths = [out / name for name in ("report.md", "report.json")]
    for path in filter(Path.exists, paths):
        refuse_overwriting(path)
    assessment = assess(read(table_path), load_predictor(predictor).specification, locked)
    with tempfile.TemporaryDirectory() as folder:
        drawn = figures.draw(assessment, Path(folder)) if drawing else []
        text = report(assessment.report, drawn)
        numbers = json.dumps(assessment.report, indent=1, allow_nan=False) + "\n"
        out.mkdir(parents=True, exist_ok=True)
        for name in drawn:
            shutil.copyfile(Path(folder) / name, out / name)
    for path, content in zip(paths, (text, numbers), strict=True):
        path.write_text(content, encoding="utf-8")
    return text
