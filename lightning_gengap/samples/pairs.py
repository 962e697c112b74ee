"""The items of a map-style data set: pairs (image, label). A DataError refuses anything else."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_gengap.errors import DataError


def pair_of(item: Any) -> tuple[Any, Any]:
    """The item as a pair."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            "data set",
            got=f"an item of type {type(item).__name__}",
            expected="pairs (image, label)",
            remedy="Wrap the data set in one that returns such pairs.",
        )
    return item[0], item[1]


def class_of(label: Any) -> int:
    """The label as a number; labels that `int` would round are refused."""
    try:
        number = int(label)
        valid = bool(number == label)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        valid = False
    if not valid:
        shape = tuple(getattr(label, "shape", ()))
        raise DataError(
            "label",
            got=f"a {type(label).__name__} of shape {shape}" if shape else repr(label),
            expected="one class index",
            remedy="Wrap the data set in one that returns such labels; of one-hot labels, label.argmax().",
        )
    return number


def float_image(image: Any) -> Tensor:
    """The image, if it is a float tensor."""
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim == 0:
        got = f"a tensor of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            "image",
            got=got,
            expected="a float tensor",
            remedy="Convert images in the transform of the wrapped data set, before its pixels are randomized.",
        )
    return image
