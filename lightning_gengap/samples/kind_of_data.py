"""What kind of data samples are of: images, tables or texts, as far as their inputs tell."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Kind = Literal["images", "tables", "texts"]
FEWEST_PIXELS = 6  # on a side: below that an array of four dimensions is hardly an image


def kind_of_inputs(inputs: Tensor | None) -> Kind | None:
    """The kind of a batch of inputs: None where it is another or cannot be told.

    Images have four dimensions, tables two of real numbers, texts two of whole numbers (words).
    """
    if inputs is None:
        return None
    if inputs.ndim == 4 and min(inputs.shape[2:]) >= FEWEST_PIXELS:
        return "images"
    if inputs.ndim == 2 and not inputs.is_complex():
        return "tables" if inputs.is_floating_point() else "texts"
    return None
