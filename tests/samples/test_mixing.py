"""Which functions mix samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from lightning_gengap.errors import BatchError
from lightning_gengap.samples.mixing import mixes, plain_collate

IMAGES, TARGETS = torch.randn(8, 1, 4, 4), torch.arange(8) % 3
ITEMS = list(zip(IMAGES, TARGETS.tolist(), strict=True))


def sometimes(images: Tensor) -> Tensor:
    return images.roll(1, 0) if torch.rand(()) < 0.7 else images


COLLATES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "stacked": (default_collate, False),
    "normalised": (lambda items: [default_collate(items)[0] * 2 - 1, default_collate(items)[1]], False),
    "by name": (lambda items: dict(zip(("x", "y"), default_collate(items), strict=True)), False),
    "augmented": (lambda items: [default_collate(items)[0] + torch.rand(len(items), 1, 1, 1), TARGETS], False),
    "one-hot": (lambda items: [default_collate(items)[0], one_hot(default_collate(items)[1], 3)], False),
    "images": (lambda items: [default_collate(items)[0].flip(0), default_collate(items)[1]], True),
    "sometimes": (lambda items: [sometimes(default_collate(items)[0]), default_collate(items)[1]], True),
    "labels": (lambda items: [default_collate(items)[0], one_hot(default_collate(items)[1], 3) * 0.9 + 0.1 / 3], True),
    "centred": (lambda items: [default_collate(items)[0] - default_collate(items)[0].mean(), TARGETS], True),
}


@pytest.mark.parametrize("kind", COLLATES)
def test_what_depends_on_the_other_samples_is_exchanged(kind: str):
    collate, mixing = COLLATES[kind]
    torch.manual_seed(0)
    assert (plain_collate(collate, ITEMS) is default_collate) == (mixing or collate is default_collate)


def test_padding_is_no_mixing():
    texts = [torch.arange(1 + i) for i in range(8)]
    items = [(text, i % 2) for i, text in enumerate(texts)]

    def padded(items: list[Any]) -> Any:
        return pad_sequence([text for text, _ in items], batch_first=True), torch.tensor([label for _, label in items])

    assert plain_collate(padded, items) is padded

    def mixed(items: list[Any]) -> Any:
        return padded(items)[0], one_hot(padded(items)[1], 2) * 0.9 + 0.05

    texts_of_one_size = [(torch.arange(3) + i, i % 2) for i in range(8)]
    assert plain_collate(mixed, texts_of_one_size) is default_collate

    def swapped(items: list[Any]) -> Any:
        return padded(items)[0].flip(0), padded(items)[1].flip(0)

    with pytest.raises(BatchError, match="that the loader's collate_fn mixes, and torch's"):
        plain_collate(swapped, items)


def test_a_function_that_takes_no_single_sample_tells_nothing():
    def sixteen(positions: list[int]) -> Any:
        if len(positions) == 1:
            raise ValueError("too few")
        return IMAGES[positions]

    assert not mixes(sixteen, 8)
