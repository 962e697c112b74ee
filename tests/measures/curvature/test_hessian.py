from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.fallback import GRAPHS
from lightning_gengap.derivatives.weights import kept_for_each_sample, trained
from lightning_gengap.linalg.lanczos import Tridiagonal, lanczos
from lightning_gengap.measures.curvature.hessian import hessian, hessian_product, spectrum_of
from tests import networks
from tests.derivatives.tasks import DifferentiableOnce, Task
from tests.oracles import curvature as oracles
from tests.probes import measured, probing

COUNT, RIDGE = 12, 1e-2
module = sys.modules[hessian.__module__]


def small() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, networks.CLASSES)
    )


def task() -> Task:
    model, images = networks.made(small).double().eval(), 4 * networks.images(COUNT).double()
    with torch.no_grad():
        model[4].weight.mul_(5)
    return model, images, networks.mostly_right_targets(model, images)


def dense(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    weights = {name: value.detach() for name, value in model.named_parameters()}
    sizes = [value.numel() for value in weights.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(weights.items(), flat.split(sizes), strict=True)
        at = {name: part.reshape(value.shape) for (name, value), part in parts}
        return cross_entropy(torch.func.functional_call(model, at, (inputs,)), targets)

    at = torch.cat([value.flatten() for value in weights.values()])
    return torch.func.jacrev(torch.func.grad(loss))(at).detach()


def clamped(eigenvalues: Tensor, ridge: float) -> Tensor:
    positive = eigenvalues.clamp(min=0)
    return positive / (positive + ridge)


def signs(size: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def values_of(model: nn.Module, inputs: Tensor, targets: Tensor, remarks: int = 0, **more: object) -> dict[str, float]:
    """The values without their common prefix, and how many remarks they come with."""
    found = measured("hessian", model, inputs, targets, **{"ridge": RIDGE, **more})
    assert (found.absent, len(found.remarks)) == ({}, remarks)
    return {key.removeprefix("curvature/hessian/"): value for key, value in found.values.items()}


def test_products_are_those_of_the_dense_hessian_in_any_metric() -> None:
    model, images, targets = task()
    exact = dense(model, images, targets)
    vector = torch.randn(len(exact), generator=torch.Generator().manual_seed(0)).double()
    with probing(model, images, targets, chunk=5) as probe:
        weights = trained(probe)
        plain = hessian_product(probe, weights)(vector)
        metric = tuple(torch.full((), 2.0) if at.ndim == 1 else 1 + at.square() for at in weights.values())
        scaled = hessian_product(probe, weights, metric)(vector)
    assert plain.tolist() == pytest.approx((exact @ vector).tolist(), rel=1e-9, abs=1e-12)
    parts = [by.expand(at.shape).flatten() for by, at in zip(metric, weights.values(), strict=True)]
    root = torch.cat(parts).double().rsqrt()
    assert scaled.tolist() == pytest.approx((root * (exact @ (root * vector))).tolist(), rel=1e-9, abs=1e-12)


def test_values_are_the_forms_of_the_start_once_the_space_is_exhausted() -> None:
    model, images, targets = task()
    eigenvalues, vectors = torch.linalg.eigh(dense(model, images, targets))
    values = values_of(model, images, targets, seed=3)
    weights = (vectors.T @ signs(len(eigenvalues), 3 + 2)).square()
    assert values["soft_rank_clamped"] == pytest.approx(float(weights @ clamped(eigenvalues, RIDGE)), rel=0.02)
    share = float(weights @ -eigenvalues.clamp(max=0)) / float(weights @ eigenvalues.abs())
    assert values["negative_mass"] == pytest.approx(share, rel=0.05)
    assert 0.02 < share < 0.5
    assert values["smallest"] == pytest.approx(float(eigenvalues[0]), rel=1e-3)
    assert values["top_eigenvalue"] == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    assert values["top_eigenvalue"] <= float(eigenvalues[-1]) * (1 + 1e-12)
    assert values["trace"] == pytest.approx(float(weights @ eigenvalues), rel=1e-9)
    assert (values["samples"], values["parameters"]) == (COUNT, 31)
    assert values["spread"] <= 0.02
    assert 2 < values["products"] <= len(eigenvalues)


@pytest.mark.parametrize("vectors", [2, 3, 10])
def test_values_are_the_same_where_memory_is_short_of_the_basis(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task()
    whole = values_of(model, images, targets, seed=3)
    bases: list[int | None] = []

    def lanczos_seen(*arguments: Any, kept: int | None = None) -> Tridiagonal:
        bases.append(kept)
        return lanczos(*arguments, kept=kept)

    monkeypatch.setattr(module, "lanczos", lanczos_seen)
    monkeypatch.setattr(module, "MOST_NUMBERS", 31 * vectors)
    values = values_of(model, images, targets, seed=3)
    assert bases == [vectors]
    for name in ("soft_rank_clamped", "negative_mass", "smallest", "top_eigenvalue", "trace"):
        assert values[name] == pytest.approx(whole[name], rel=0.02), name


def test_the_mean_over_starts_is_the_dense_value() -> None:
    model, images, targets = task()
    exact = dense(model, images, targets)
    expected = float(clamped(torch.linalg.eigvalsh(exact), RIDGE).sum())
    weights = tuple(parameter.detach() for parameter in model.parameters())
    found = []
    for seed in range(40):
        run = spectrum_of(lambda vector: exact @ vector, weights, 60, RIDGE, seed)
        found.append(run.gauss().value(lambda nodes: clamped(nodes, RIDGE)))
    values = torch.tensor(found)
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 40**0.5 + 0.02 * expected


def test_the_trace_is_unbiased_with_the_spread_that_is_stated() -> None:
    model, images, targets = task()
    exact = dense(model, images, targets)
    found = torch.tensor([values_of(model, images, targets, seed=seed)["trace"] for seed in range(30)])
    spread = 2**0.5 * float(exact.norm())
    assert abs(float(found.mean()) - float(exact.trace())) < 4 * float(found.std()) / 30**0.5
    assert 0.1 * spread < float(found.std()) < 1.5 * spread


def test_trace_and_eigenvalues_are_of_the_matrix_in_the_ridges_metric() -> None:
    model, images, targets = task()
    ridge = {
        name: torch.tensor(factor * RIDGE, dtype=torch.float64)
        for (name, _), factor in zip(model.named_parameters(), (1, 4, 0.25, 2), strict=True)
    }
    parts = [ridge[name].expand(weight.shape).flatten() for name, weight in model.named_parameters()]
    values = values_of(model, images, targets, ridge=ridge)
    root = torch.cat(parts)
    root = (root / root.log().mean().exp()).rsqrt()  # the ridge's geometric mean is lambda
    matrix = root[:, None] * dense(model, images, targets) * root
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    weights = (vectors.T @ signs(len(eigenvalues), 2)).square()
    assert values["trace"] == pytest.approx(float(weights @ eigenvalues), rel=1e-6)
    assert values["top_eigenvalue"] == pytest.approx(float(eigenvalues[-1]), rel=1e-5)


def test_it_is_flagged_only_where_a_negative_eigenvalue_exceeds_the_ridge() -> None:
    model, images, targets = task()
    smallest = float(torch.linalg.eigvalsh(dense(model, images, targets))[0])
    assert smallest < 0
    assert values_of(model, images, targets, ridge=-0.8 * smallest)["flagged"] == 1
    assert values_of(model, images, targets, ridge=-1.2 * smallest)["flagged"] == 0


def test_a_convex_loss_has_the_gauss_newton_matrix_and_no_negative_mass() -> None:
    model, images = networks.made(networks.linear).double(), networks.images(COUNT).double()
    targets = networks.mostly_right_targets(model, images)
    eigenvalues, vectors = torch.linalg.eigh(oracles.gauss_newton(model, images))
    values = values_of(model, images, targets, chunk=5)
    form = float((vectors.T @ signs(len(eigenvalues), 2)).square() @ clamped(eigenvalues, RIDGE))
    assert values["soft_rank_clamped"] == pytest.approx(form, rel=0.03)
    assert values["negative_mass"] < 1e-9
    assert values["flagged"] == 0


def test_without_any_curvature_all_is_zero_and_shares_are_absent() -> None:
    weights = (torch.zeros(5, dtype=torch.float64),)
    run = spectrum_of(torch.zeros_like, weights, 4, RIDGE, seed=0)
    assert run.gauss().nodes.tolist() == run.gauss_radau().nodes.tolist() == [0.0]


def test_products_that_are_not_symmetric_or_not_finite_are_refused() -> None:
    weights = (torch.zeros(8, dtype=torch.float64),)
    skew = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ArithmeticError, match="not symmetric"):
        spectrum_of(lambda vector: skew @ vector, weights, 5, RIDGE, seed=0)
    with pytest.raises(ArithmeticError, match="not finite"):
        spectrum_of(lambda vector: vector / 0, weights, 5, RIDGE, seed=0)


def test_float32_is_near_float64() -> None:
    model, images, targets = task()
    exact = values_of(model, images, targets)
    values = values_of(model.float(), images.float(), targets)
    for key in ("soft_rank_clamped", "negative_mass", "smallest", "top_eigenvalue", "trace"):
        assert values[key] == pytest.approx(exact[key], rel=0.03)


def test_smaller_chunks_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = values_of(*task())
    tried = []

    def short_of_memory(probe: object, weights: object, metric: object, chunk: int) -> object:
        tried.append(chunk)
        if chunk > 32:
            raise RuntimeError("out of memory")
        return hessian_product(probe, weights, metric, chunk)

    monkeypatch.setattr(module, "hessian_product", short_of_memory)
    values = values_of(*task(), remarks=1)
    assert tried == [256, 32]
    assert values == pytest.approx(whole, rel=1e-6)


def test_chunks_that_would_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model, images, targets = task()
    with probing(model, images, targets, ridge=RIDGE) as probe:
        each = GRAPHS * probe.cached(kept_for_each_sample)
        monkeypatch.setattr("lightning_gengap.derivatives.fallback.room_for", lambda count: count <= each)
        model[2].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
        assert hessian(probe)
    assert set(seen) == {1}


def test_every_product_is_one_forward_per_chunk() -> None:
    model, images, targets = task()
    seen: list[int] = []
    with probing(model, images, targets, ridge=RIDGE) as probe:
        handle = model[2].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
        values = hessian(probe)
        handle.remove()
    assert seen == [1, 2, *[COUNT] * int(values["curvature/hessian/products"])]  # one and two: what graphs keep


@pytest.mark.parametrize(
    "kind", ["differentiable once", "differentiable once at the end", "too many weights", "too little memory", "frozen"]
)
def test_what_is_undefined_is_absent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task()
    why = "vectors of 31 trained parameters"
    if kind.startswith("differentiable once"):
        model = DifferentiableOnce(at_the_end=kind.endswith("end")).double()
        why = (
            "the model cannot be differentiated twice (graphs rebuilt for every product: NotImplementedError: "
            "an operation can be differentiated once only"
        )
    elif kind == "too many weights":
        monkeypatch.setattr(module, "MOST_NUMBERS", 30)
    elif kind == "too little memory":
        monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 31 * 8 * 8)
    else:
        model.requires_grad_(False)
        why = "no parameter requires a gradient"
    found = measured("hessian", model, images, targets, ridge=RIDGE)
    assert (found.values, list(found.absent)) == ({}, ["curvature/hessian/*"])
    assert found.absent["curvature/hessian/*"].startswith(why)
