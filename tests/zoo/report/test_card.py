import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_gengap import pretrained_predictors
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.fit.fit import fit
from lightning_gengap.zoo.fit.loss_head import fit_loss_head
from lightning_gengap.zoo.report.card import card
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.one_family_card import one_family_card
from lightning_gengap.zoo.table import Table, read
from tests.zoo.conftest import PLANTED
from tests.zoo.report.pages import sections
from tests.zoo.tables import rows, table_of

BUNDLED = Path(pretrained_predictors.__file__).parent


def test_card_is_written_from_the_same_scores_and_shows_figures(assessment: Assessment):
    made = assessment.setting.table
    predictor = replace(fit(made, PLANTED), scores=assessment.report)
    text = card(predictor, made, ["planted/coverage.png"])
    assert ranged(assessment.report["splits"]["by task"]["mae"]["planted"], 1) in text
    assert "leave one source out" in text
    assert "![planted/coverage.png](planted/coverage.png)" in text
    assert "## Figures" not in card(predictor, made)
    assert "### Loss gap" not in text
    head = fit_loss_head(made, PLANTED, assessment.setting.among)
    text = card(replace(predictor, loss_head=head), made)
    assert "### Loss gap" in text
    assert ranged(assessment.report["loss head"]["splits"]["by task"]["log mae"]["planted"], 3) in text


def test_card_lists_what_was_fitted_and_what_was_left_out_and_why(assessment: Assessment):
    made = rows(8)  # 64 runs of four snapshots
    for row in made:
        if row["run"] in ("00-0", "00-1", "00-2"):
            row["measure.difficulty/ridge_accuracy"] = ""
        if row["run"] == "01-0" or (row["run"] == "01-1" and row["epoch"] < 3):
            row["measure.train_accuracy"] = 0.3
    whole = table_of(made)
    predictor = replace(fit(whole, PLANTED), scores=assessment.report)
    text = card(predictor, whole)
    assert "Of the table's 256 snapshots of 64 runs, 238 snapshots of 60 runs in 8 tasks" in text
    assert predictor.provenance["snapshots"] == 238
    composition = sections(text)["Fitted on"]
    assert "| source | cifar10 13, cifar100 15, digits 16, fashion_mnist 16 |" in composition
    assert "| tasks by source | cifar10 2, cifar100 2, digits 2, fashion_mnist 2 |" in composition
    assert "Left out: 4 runs wholly, 3 for want of a feature (difficulty/ridge_accuracy 3) and 1 whose" in text
    assert "in snapshots, 12 and 6." in text
    sizes = sorted({row["run"]: row["measure.train_samples"] for row in made if row["run"] > "01-0"}.values())
    assert any(line.endswith(f", {sizes[-1]:.0f} |") for line in composition)
    assert "Nothing was left out." in card(predictor, table_of(rows(8)))


@pytest.fixture(scope="module")
def bundled_tables() -> dict[str, Table]:
    """By their hashes."""
    tables = (read(BUNDLED / f"{name}.csv.gz") for name in ("small_zoo_v3", "third_zoo_v2", "image_zoo_v2"))
    return {table.sha256: table for table in tables}


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.json")), ids=lambda path: path.stem)
def test_the_bundled_cards_are_those_of_the_bundled_scores(path: Path, bundled_tables: dict[str, Table]):
    """Up to the order of contenders and hyperparameters, which the file of a predictor sorts by name."""
    predictor, written = load_predictor(str(path)), path.with_suffix(".md").read_text()
    figures = re.findall(r"!\[.*\]\((.+\.png)\)", written)
    grid = predictor.specification.grid
    table = bundled_tables[predictor.provenance["table_sha256"]]
    made = one_family_card(predictor, *figures) if grid else card(predictor, table, figures)
    assert {title: unordered(lines) for title, lines in sections(made).items()} == {
        title: unordered(lines) for title, lines in sections(written).items()
    }


def unordered(lines: list[str]) -> list[list[str]]:
    return sorted(sorted(re.split(r"[\s|,;()]+", line)) for line in lines)
