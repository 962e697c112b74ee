"""Short texts as token ids, from `<source>.npz` in a folder: arrays <split>_tokens (N, words) and <split>_labels (N,).

Id 0 is padding, at the end, and 1 an unknown word; the others are words by falling frequency.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.train.text_networks import PADDING

TEXTS = {"subjectivity": 2, "customer_reviews": 2, "sst2": 2, "trec": 6}  # classes
UNKNOWN, WORDS = 1, 4000


def text_split(source: str, split: str, directory: Path | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (N, words) and labels (N,) of `train` or `test`.

    Of the words, the 4,000 of the smallest ids are told apart, so that kept weights stay small; the others, and those
    that do not occur in the training part, are unknown.
    """
    tokens, labels = _arrays(source, split, directory)
    return np.where(tokens < vocabulary(directory, source), tokens, UNKNOWN), labels


@lru_cache
def vocabulary(directory: Path | None, source: str) -> int:
    """The number of ids that are told apart."""
    return min(int(_arrays(source, "train", directory)[0].max()) + 1, WORDS)


def _arrays(source: str, split: str, directory: Path | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    path = Path(directory or ".") / f"{source}.npz"
    if not path.is_file():
        raise DataError(
            f"data set {source}",
            got=f"no file {path}",
            expected="arrays {train,test}_tokens and {train,test}_labels in an .npz file",
            remedy="Pass --data DIRECTORY.",
        )
    with np.load(path, allow_pickle=False) as arrays:
        tokens, labels = (arrays[f"{split}_{part}"].astype(np.int64) for part in ("tokens", "labels"))
    if ((tokens[:, :-1] == PADDING) & (tokens[:, 1:] != PADDING)).any():
        raise DataError(
            f"data set {source}",
            got="a word after padding",
            expected="padding at the end alone",
            remedy="Move each text's words to its beginning.",
        )
    return tokens, labels
