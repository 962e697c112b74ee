"""What is predicted at kept weights is what the run was scored on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_predictions import main, read

import lightning_gengap.zoo.train.run as stage
from tests.zoo.train.recipes import small


def test_the_predictions_have_the_accuracy_that_the_run_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.run(small(), None, tmp_path, keep_weights=True)
    (path,) = tmp_path.glob("*.json")
    (tmp_path / "broken.json").write_text("{}")
    main([str(tmp_path), "--out", str(tmp_path / "out.npz")])
    assert capsys.readouterr().out.startswith("1 of 1 runs")
    found = read(tmp_path / "out.npz")[path.stem]
    rows = json.loads(path.read_text())["rows"]
    assert found.epochs.tolist() == [row["epoch"] for row in rows]
    accuracies = (found.predicted == found.labels).mean(axis=1)
    assert accuracies == pytest.approx([row["gap.clean_test_accuracy"] for row in rows])
