from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.train import texts
from lightning_gengap.zoo.train.texts import text_split, vocabulary
from tests.zoo.train.recipes import write_texts


def test_ids_that_training_lacks_or_that_are_too_rare_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arrays = {
        "train_tokens": np.array([[2, 5, 0], [3, 0, 0]], np.uint16),
        "test_tokens": np.array([[5, 6, 9]], np.uint16),
        "train_labels": np.array([0, 1], np.uint8),
        "test_labels": np.array([1], np.uint8),
    }
    np.savez(tmp_path / "sst2.npz", **arrays)
    assert vocabulary(tmp_path, "sst2") == 6
    tokens, labels = text_split("sst2", "test", tmp_path)
    assert tokens.tolist() == [[5, 1, 1]]
    assert (tokens.dtype, labels.tolist()) == (np.int64, [1])
    np.savez(tmp_path / "trec.npz", **arrays)
    monkeypatch.setattr(texts, "WORDS", 3)
    assert text_split("trec", "train", tmp_path)[0].tolist() == [[2, 1, 0], [1, 0, 0]]


def test_a_missing_file_and_a_word_after_padding_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"got no file .*sst2\.npz; .* Pass --data DIRECTORY"):
        text_split("sst2", "train", tmp_path)
    write_texts(tmp_path)
    with np.load(tmp_path / "sst2.npz") as whole:
        arrays = dict(whole)
    arrays["train_tokens"][3] = [2, 0, 0, 3, 0, 0]
    np.savez(tmp_path / "trec.npz", **arrays)
    with pytest.raises(DataError, match="got a word after padding"):
        text_split("trec", "train", tmp_path)
