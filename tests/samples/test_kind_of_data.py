"""The kind of data is told from the inputs' shape and type."""

from __future__ import annotations

import pytest
import torch

from lightning_gengap.samples.kind_of_data import Kind, kind_of_inputs


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (torch.zeros(4, 3, 32, 32), "images"),
        (torch.zeros(4, 1, 6, 8, dtype=torch.uint8), "images"),
        (torch.zeros(4, 8, 5, 5), None),
        (torch.zeros(4, 30), "tables"),
        (torch.zeros(4, 30, dtype=torch.float16), "tables"),
        (torch.zeros(4, 30, dtype=torch.int64), "texts"),
        (torch.zeros(4, 30, dtype=torch.complex64), None),
        (torch.zeros(4, 10, 16), None),
        (None, None),
    ],
)
def test_images_tables_and_texts_are_told_apart(inputs: torch.Tensor | None, kind: Kind | None) -> None:
    assert kind_of_inputs(inputs) == kind
