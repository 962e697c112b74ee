from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.held_out import HeldOut, hold_out
from lightning_gengap.zoo.evaluate.one_family import scored_by_run
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS
from lightning_gengap.zoo.report import figures
from lightning_gengap.zoo.report.one_family_figure import draw, shown
from lightning_gengap.zoo.splits import by_run
from lightning_gengap.zoo.table import Table, rows_of, write
from tests.zoo.evaluate.test_one_family import GROUP, grid_table


@dataclass(frozen=True)
class Made:
    table: Table
    predictor: Predictor
    held: HeldOut


@pytest.fixture(scope="module")
def made() -> Made:
    table = grid_table(noise=0.02)
    listed, held = scored_by_run(table, GROUP)
    return Made(table, replace(fit(table, GROUP), scores=listed), held)


def test_points_are_the_predictions_held_out_by_run_with_their_intervals(made: Made):
    plotted = shown(made.predictor, made.table, made.held)
    expected = hold_out(made.table, GROUP, by_run(made.table), usable(made.table, GROUP))
    for name, values in (("predicted", expected.gap), ("lower", expected.lower), ("upper", expected.upper)):
        np.testing.assert_array_equal(getattr(plotted, name), 100 * values)
    np.testing.assert_array_equal(plotted.actual, 100 * made.table.numbers("gap.accuracy")[expected.rows])
    own = made.predictor.scores["by run"]["group"]
    errors = np.abs(plotted.predicted - plotted.actual)
    assert errors.mean() == pytest.approx(own["all snapshots"]["mae"][0], abs=1e-4)
    assert plotted.converged.sum() == own["converged"]["rows"] > 0
    assert errors[plotted.converged].mean() == pytest.approx(own["converged"]["mae"][0], abs=1e-4)


def test_coverage_is_that_of_the_card_and_counted_by_train_accuracy(made: Made):
    plotted = shown(made.predictor, made.table, made.held)
    bands = {band.name: band for band in plotted.bands}
    own = made.predictor.scores["by run"]["group"]
    for kind in ("all snapshots", "converged"):
        assert bands[kind].coverage == own["coverage"][kind]
        assert bands[kind].width == own["width"][kind][0]
        assert bands[kind].rows == own[kind]["rows"]
    accuracy, runs = (made.table.columns[name] for name in ("measure.train_accuracy", "run"))
    chosen = [place for place, row in enumerate(made.held.rows) if 0.9 <= float(accuracy[row]) < 0.97]
    inside = [plotted.lower[i] <= plotted.actual[i] <= plotted.upper[i] for i in chosen]
    band = bands["train accuracy 0.9 to 0.97"]
    assert band.coverage[0] == pytest.approx(np.mean(inside), abs=1e-4)
    assert band.width == pytest.approx(np.mean([plotted.upper[i] - plotted.lower[i] for i in chosen]), abs=1e-3)
    assert (band.rows, band.runs) == (len(chosen), len({runs[made.held.rows[i]] for i in chosen}))


def test_bands_of_few_rows_are_left_out(made: Made):
    accuracy = made.table.numbers("measure.train_accuracy")[made.held.rows]
    rising = (accuracy >= 0.9) & (accuracy < 0.97)
    for count, present in ((4, False), (5, True)):
        kept = np.sort(np.concatenate([np.flatnonzero(rising)[:count], np.flatnonzero(~rising)]))
        parts = [getattr(made.held, name)[kept] for name in HeldOut.__annotations__]
        names = [band.name for band in shown(made.predictor, made.table, HeldOut(*parts)).bands]
        assert ("train accuracy 0.9 to 0.97" in names) is present
        assert "converged" in names


def test_contributions_are_those_of_the_card_the_largest_first(made: Made):
    moved = shown(made.predictor, made.table, made.held).contributions
    assert moved == made.predictor.scores["contributions"]
    assert list(moved.values()) == sorted(moved.values(), reverse=True)


def test_the_figure_follows_the_numbers_and_is_the_same_twice(made: Made):
    plotted = shown(made.predictor, made.table, made.held)
    drawn = draw(plotted)
    assert drawn.startswith(b"\x89PNG")
    assert drawn == draw(plotted)
    for name in ("predicted", "lower"):
        assert drawn != draw(replace(plotted, **{name: getattr(plotted, name) - 5}))
    for name in ("converged", "abstained"):
        assert drawn != draw(replace(plotted, **{name: ~getattr(plotted, name)}))
    assert drawn != draw(replace(plotted, bands=plotted.bands[:-1]))
    assert drawn != draw(replace(plotted, contributions={k: 2 * v + 1 for k, v in plotted.contributions.items()}))


@pytest.mark.parametrize("drawable", [True, False])
def test_fit_writes_the_figure_and_names_it_in_the_card_where_it_can_be_drawn(
    made: Made, drawable: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(SPECIFICATIONS, "group", GROUP)
    monkeypatch.setattr(figures, "drawable", lambda: drawable)
    source, out = tmp_path / "t.csv.gz", tmp_path / "group.json"
    write(rows_of(made.table), source)
    assert main(["zoo", "fit", str(source), "--name", "group", "--out", str(out)]) == 0
    written = {path.name for path in tmp_path.glob("group*")}
    text = out.with_suffix(".md").read_text()
    assert "## Held-out scores" in text
    if drawable:
        assert written == {"group.json", "group.md", "group.png"}
        assert out.with_suffix(".png").read_bytes() == draw(shown(made.predictor, made.table, made.held))
        assert "![group](group.png)" in text
    else:
        assert written == {"group.json", "group.md"}
        assert "png" not in text


def test_without_matplotlib_drawing_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "drawable", lambda: False)
    with pytest.raises(ConfigurationError, match=r"lightning-gengap\[report\]"):
        draw(shown(made.predictor, made.table, made.held))
