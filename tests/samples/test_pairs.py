from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gengap.errors import DataError
from lightning_gengap.samples.pairs import class_of, float_image, pair_of


@pytest.mark.parametrize("label", [3, 3.0, np.int64(3), torch.tensor(3), torch.tensor([3])], ids=repr)
def test_labels_are_plain_numbers(label: Any) -> None:
    found = class_of(label)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.eye(4)[1], r"label: got a Tensor of shape \(4,\); expected one class index.*label.argmax"),
        (1.5, "label: got 1.5; expected one class"),
        (float("inf"), "label: got inf"),
        ("3", "label: got '3'; expected one class"),
        (None, "label: got None; expected one class"),
    ],
)
def test_labels_that_are_no_class_index_are_refused(label: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_of(label)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "image: got int; expected a float tensor"),
        (torch.ones(2, 2).long(), "image: got a tensor of torch.int64"),
        (torch.tensor(1.0), "image: got a tensor of torch.float32"),
    ],
)
def test_images_that_are_no_float_tensors_are_refused(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        float_image(image)


def test_items_are_pairs() -> None:
    assert pair_of((1, 2)) == pair_of([1, 2]) == (1, 2)
    for item in (torch.ones(2), (1, 2, 3)):
        with pytest.raises(DataError, match=f"got an item of type {type(item).__name__}; expected pairs"):
            pair_of(item)
