"""The data sets behind the tasks: images, tables and texts in a directory, what packages ship, synthetic problems."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import DataError
from lightning_gengap.zoo.train.synthetic import SYNTHETIC, synthetic_split
from lightning_gengap.zoo.train.tables import EMBEDDED, KEEL, table_split
from lightning_gengap.zoo.train.texts import TEXTS, text_split

CLASS_COUNTS = {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10, "digits": 10}  # of the image sources
Images = tuple[NDArray[Any], NDArray[np.int64]]


@lru_cache(maxsize=2)
def load(source: str, split: str, directory: Path | None) -> Images:
    """The inputs and labels (N,) of one split.

    Inputs are uint8 images (N, height, width, channels), features (N, features) or token ids (N, words).

    Args:
        source: `digits` (1,197 training and 600 test images, from scikit-learn, split by a fixed seed),
            `breast_cancer` (380 and 189 rows of a table, from scikit-learn), a name in `SYNTHETIC`, `tables.EMBEDDED`,
            `tables.KEEL` or `TEXTS`, or any other name of which `directory` has the files
            `<source>_<split>_{images,labels}.npy`.
        split: `train` or `test`.
        directory: where the files are; None where no files are needed.
    """
    if source in ("digits", "breast_cancer"):
        return _embedded(source, split)
    if source in SYNTHETIC:
        return synthetic_split(source, split)
    if source in EMBEDDED or source in KEEL:
        return table_split(source, split, directory)
    if source in TEXTS:
        return text_split(source, split, directory)
    paths = [Path(directory or ".") / f"{source}_{split}_{part}.npy" for part in ("images", "labels")]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"data set {source}",
            got=f"no file {missing[0]}",
            expected="arrays <source>_{train,test}_{images,labels}.npy",
            remedy="Pass --data DIRECTORY, or use only the embedded digits.",
        )
    images, labels = np.load(paths[0], mmap_mode="r"), np.load(paths[1])
    return (images if images.ndim == 4 else images[..., None]), labels.astype(np.int64)


def _embedded(source: str, split: str) -> Images:
    """The first of a fixed shuffle of scikit-learn's rows to train on, and the others to test on."""
    from sklearn import datasets

    make, train = (datasets.load_digits, 1197) if source == "digits" else (datasets.load_breast_cancer, 380)
    features, labels = make(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[:train] if split == "train" else order[train:]
    features, labels = features[chosen], labels[chosen].astype(np.int64)
    if source == "digits":
        features = np.rint(features * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return features, labels
