from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.jacobian import METHODS
from lightning_gengap.measures.curvature.soft_rank import RIDGES
from lightning_gengap.measures.values import Spectrum
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured

COUNT = 20


def values_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    found = measured("soft_rank", model, images, targets, **more)
    assert (found.absent, found.remarks) == ({}, [])
    return found.values


def test_values_are_those_of_the_dense_matrix() -> None:
    model, images, targets = task(networks.cnn_with_batch_norm, COUNT, scale=5.0)
    exact = oracles.dual(model, images)
    spectrum = torch.linalg.eigvalsh(exact)
    values = values_of(model, images, targets, ridge=5e-3, chunk=7)
    assert values["curvature/lambda"] == 5e-3
    assert values["curvature/lambda_assumed"] == 0
    assert values["curvature/samples"] == COUNT
    assert values["curvature/rung"] == 1
    assert values["curvature/parameters"] == sum(p.numel() for p in model.parameters())
    assert values["curvature/soft_rank_lower"] <= values["curvature/soft_rank"] <= values["curvature/soft_rank_upper"]
    assert values["curvature/soft_rank"] == pytest.approx(oracles.soft_rank(exact, 5e-3), rel=0.15)
    for name, ridge in RIDGES.items():
        assert values[f"curvature/soft_rank_{name}"] == pytest.approx(oracles.soft_rank(exact, ridge), rel=0.2)
    assert values["curvature/trace"] == pytest.approx(float(spectrum.sum()), rel=0.4)
    assert values["curvature/top_eigenvalue"] == pytest.approx(float(spectrum[-1]), rel=1e-6)
    assert 0 < values["curvature/products"] <= 120


@pytest.mark.parametrize(("known", "used", "assumed"), [(None, 1e-3, 1), (0.0, 1e-3, 1), (3e-4, 3e-4, 0)])
def test_the_ridge_is_the_weight_decay_or_assumed(known: float | None, used: float, assumed: int) -> None:
    values = values_of(*task(small_mlp, COUNT), ridge=known)
    assert (values["curvature/lambda"], values["curvature/lambda_assumed"]) == (used, assumed)


def test_it_lies_within_its_range_and_falls_with_the_ridge() -> None:
    model, images, targets = task(small_mlp, COUNT)
    values = values_of(model, images, targets)
    curve = [values[f"curvature/soft_rank_{name}"] for name in RIDGES]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] > 0
    assert curve[0] <= min(values["curvature/parameters"], COUNT * (networks.CLASSES - 1)) * (1 + 1e-9)


def test_primal_dual_and_leverage_forms_of_the_oracle_agree() -> None:
    model, images, _ = task(small_mlp, COUNT, scale=3.0)
    ridge = 1e-3
    dual, primal = oracles.dual(model, images), oracles.gauss_newton(model, images)
    exact = oracles.soft_rank(dual, ridge)
    assert oracles.soft_rank(primal, ridge) == pytest.approx(exact, rel=1e-9)
    blocks = oracles.leverage_blocks(model, images, ridge)
    leverages = torch.einsum("nkj,njk->", oracles.output_curvature(model(images)), blocks)
    assert float(leverages) == pytest.approx(exact, rel=1e-9)


def test_another_seed_gives_another_value_within_the_spread() -> None:
    model, images, targets = task(small_mlp, COUNT)
    first, other = (values_of(model, images, targets, seed=seed)["curvature/soft_rank"] for seed in (0, 5))
    assert other != first
    assert other == pytest.approx(first, rel=0.2)


def test_the_largest_ritz_values_are_the_largest_eigenvalues_from_below() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=3.0)
    exact = torch.linalg.eigvalsh(oracles.dual(model, images)).flip(0).tolist()
    values = values_of(model, images, targets)
    found = [values["curvature/top_eigenvalue"], *(values[f"curvature/top_eigenvalue_{rank}"] for rank in (2, 3))]
    assert found[0] == pytest.approx(exact[0], rel=1e-3)
    assert all(0.9 * above <= below <= above * (1 + 1e-9) for below, above in zip(found, exact[:3], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_rung_is_the_place_of_the_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(logits_of: object, weights: object) -> None:
        raise NotImplementedError

    rung = 1 + list(METHODS).index(method)
    for faster in list(METHODS)[: rung - 1]:
        monkeypatch.setitem(METHODS, faster, fails)
    assert measured("soft_rank", *task(small_mlp, COUNT)).values["curvature/rung"] == rung


def test_the_spectrum_comes_with_the_soft_rank() -> None:
    found = measured("soft_rank", *task(small_mlp, COUNT))
    spectrum = found.figures["curvature/spectrum"]
    assert isinstance(spectrum, Spectrum)
    assert float(spectrum.eigenvalues.max()) == found.values["curvature/top_eigenvalue"]
