"""An embedding of the inputs counts as the linear map of one-hot vectors; other embeddings are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import probing, taken

TARGETS = torch.arange(20) % networks.CLASSES


def tokens(factory: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    return networks.made(factory).double().eval(), networks.token_ids(20)


class Bag(nn.Module):
    def __init__(self, mode: str, **more: Any) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(networks.VOCABULARY, 8, mode=mode, **more)
        self.head = nn.Linear(8, networks.CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.embedding(ids)))


class Positions(networks.Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(6, 8)

    def forward(self, ids: Tensor) -> Tensor:
        seen = self.embedding(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(torch.relu(self.hidden(seen.mean(dim=1))))


class ImagePositions(nn.Module):
    """An embedding of places beside float inputs: what it adds is a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 4, 4, 4), nn.Embedding(4, 4)
        self.head = nn.Linear(4, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position(torch.arange(4))
        return self.head(torch.relu(tokens).mean(dim=1))


@pytest.mark.parametrize("factory", [networks.Tokens, lambda: Bag("sum"), lambda: Bag("mean")])
def test_an_embedding_counts_as_the_linear_map_of_one_hot_inputs(factory: Callable[[], nn.Module]) -> None:
    model, ids = tokens(factory)
    matrices = [model.embedding.weight.detach().T]
    matrices += [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]
    moved = networks.made(factory, seed=5).double().requires_grad_(False)
    with probing(model, ids, TARGETS, initial_state=copy_state(moved), train_samples=50) as probe:
        norms, products, moves, rows = (
            taken(name, probe).values for name in ("norm", "norm_product", "distance", "complexity")
        )
        assert next(iter(probe.cached(checked).layers)) == "embedding"
    spectral = sum(2 * torch.linalg.svdvals(matrix)[0].log().item() for matrix in matrices)
    assert norms["norm/log_product_spectral"] == pytest.approx(spectral, rel=1e-6)
    frobenius = sum(matrix.square().sum().log().item() for matrix in matrices)
    assert norms["norm/log_product_frobenius"] == pytest.approx(frobenius, rel=1e-9)
    expected = sum(math.log(max(float(unit.abs().sum()) for unit in matrix)) for matrix in matrices)
    assert products["norm_product/log_1_infinity"] == pytest.approx(expected, rel=1e-6)
    start = [moved.embedding.weight.T, *(m.weight for m in moved.modules() if isinstance(m, nn.Linear))]
    gone = sum(float((now - then).square().sum()) for now, then in zip(matrices, start, strict=True))
    assert moves["distance/frobenius"] == pytest.approx(gone, rel=1e-9)
    assert rows["complexity/parameters"] == sum(matrix.numel() for matrix in matrices)
    assert rows["complexity/log_product_spectral_reshaped"] == pytest.approx(spectral, rel=1e-6)
    assert rows["complexity/log_product_spectral_fft"] == pytest.approx(spectral, rel=1e-6)


def test_scale_moved_between_embedding_and_layer_is_not_seen() -> None:
    model, ids = tokens(networks.Tokens)
    products = []
    for _ in range(2):
        with probing(model, ids, TARGETS) as probe:
            products.append(taken("norm", probe).values["norm/log_product_spectral"])
        with torch.no_grad():
            model.embedding.weight *= 5
            model.hidden.weight /= 5
    assert products[1] == pytest.approx(products[0], rel=1e-6)


@pytest.mark.parametrize(
    ("factory", "inputs", "reason"),
    [
        (Positions, networks.token_ids(20), "'embedding' is not the only call of an embedding"),
        (ImagePositions, networks.images(20).double(), "'position' does not map the inputs"),
        (lambda: Bag("max"), networks.token_ids(20), "EmbeddingBag 'embedding' is no linear map"),
        (lambda: Bag("sum", max_norm=1.0), networks.token_ids(20), "EmbeddingBag 'embedding' is no linear map"),
        (networks.VisionTransformer, networks.images(20).double(), "parameters outside its layers"),
    ],
)
def test_embeddings_without_such_a_map_and_positions_are_refused(
    factory: Callable[[], nn.Module], inputs: Tensor, reason: str
) -> None:
    with probing(networks.made(factory).double(), inputs, TARGETS) as probe, pytest.raises(Undefined, match=reason):
        probe.cached(checked)
