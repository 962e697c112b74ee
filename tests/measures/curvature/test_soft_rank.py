from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature
from lightning_gengap.derivatives.jacobian import LINEARISATION, Jacobian
from lightning_gengap.linalg.lanczos import lanczos, shrinkage
from lightning_gengap.measures.curvature.soft_rank import RIDGES, LanczosRuns, estimated, one_run
from lightning_gengap.measures.values import Spectrum
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured, probing

COUNT = 20


def curvature_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> Curvature:
    with probing(model, images, targets, **more) as probe:
        return dual_curvature(probe)


def values_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    found = measured("soft_rank", model, images, targets, **more)
    assert (found.absent, found.remarks) == ({}, [])
    return found.values


def of_matrix(matrix: Tensor, samples: int, classes: int) -> Curvature:
    """A curvature with evenly spread probabilities and a Jacobian of one's own, shape (samples x classes, weights)."""
    jacobian = Jacobian(
        lambda cotangent: (matrix.T @ cotangent.flatten(),),
        lambda direction: (matrix @ direction[0]).reshape(samples, classes),
    )
    even = torch.full((samples, classes), 1 / classes, dtype=torch.float64)
    labels = torch.zeros(samples, dtype=torch.long)
    return Curvature(
        even, labels, (jacobian,), (samples,), matrix.shape[1], LINEARISATION, torch.device("cpu"), torch.float64
    )


@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_estimator_is_unbiased(ridge: float, scale: float) -> None:
    model, images, targets = task(small_mlp, COUNT, scale=scale)
    exact = oracles.dual(model, images)
    eigenvalues, vectors = torch.linalg.eigh(exact)
    shrunk = eigenvalues.clamp(min=0) / (eigenvalues.clamp(min=0) + ridge)
    half = vectors * shrunk.sqrt()
    curvature = curvature_of(model, images, targets)
    draws = 400
    forms = torch.stack(
        [(curvature.random_signs(torch.Generator().manual_seed(seed)) @ half).square().sum() for seed in range(draws)]
    )
    error = float(forms.std()) / draws**0.5
    assert abs(float(forms.mean()) - float(shrunk.sum())) < 4 * error + 1e-9 * float(shrunk.sum())


def test_the_bracket_holds_the_exact_form_of_every_start() -> None:
    model, images, targets = task(networks.cnn_with_batch_norm, COUNT, scale=5.0)
    exact = oracles.dual(model, images)
    eigenvalues, vectors = torch.linalg.eigh(exact)
    curvature = curvature_of(model, images, targets)
    for seed in range(5):
        start = curvature.random_signs(torch.Generator().manual_seed(seed))
        run = lanczos(lambda vector: exact @ vector, start, 30)
        for steps in (2, 5, 10, 20, 30):
            part = replace(run, diagonal=run.diagonal[:steps], coupling=run.coupling[:steps])
            for ridge in RIDGES.values():
                shrunk = eigenvalues.clamp(min=0) / (eigenvalues.clamp(min=0) + ridge)
                form = float((vectors.T @ start).square() @ shrunk)
                bracket = shrinkage(part, ridge)
                assert bracket.lower <= form * (1 + 1e-6)
                assert bracket.upper >= form * (1 - 1e-6)


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


def test_the_mean_over_many_seeds_is_the_dense_value() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=10.0)
    exact = oracles.soft_rank(oracles.dual(model, images), 1e-2)
    curvature = curvature_of(model, images, targets)
    found = torch.tensor([estimated(curvature, 1e-2, seed).soft_rank(1e-2).middle for seed in range(40)])
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 40**0.5 + 0.02 * exact


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


def test_a_curvature_of_ridge_times_identity_gives_half_the_parameters() -> None:
    samples, classes, ridge = 12, 3, 1e-2
    size = samples * (classes - 1)
    one = torch.eye(classes).double() - 1 / classes
    basis = torch.linalg.eigh(one)[1][:, 1:]  # B = (I - 1 1^T / classes) / sqrt(classes) at even probabilities
    matrix = torch.block_diag(*[basis] * samples) * (classes * samples * ridge) ** 0.5
    spectrum = estimated(of_matrix(matrix, samples, classes), ridge, seed=0)
    assert spectrum.soft_rank(ridge).middle == pytest.approx(size / 2, rel=1e-9)
    assert len(spectrum.runs[0]) == 1


def test_ridge_regression_gives_the_trace_of_its_hat_matrix() -> None:
    # Two classes at even odds, logits x.w and -x.w: their difference 2 x.w has output curvature 1/4, in all x x^T.
    samples, ridge = 15, 1e-2
    features = torch.randn(samples, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.stack([features, -features], dim=1).reshape(2 * samples, 6)
    curvature = of_matrix(matrix, samples, 2)
    hat = features @ torch.linalg.solve(features.T @ features + samples * ridge * torch.eye(6).double(), features.T)
    found = torch.tensor([estimated(curvature, ridge, seed).soft_rank(ridge).middle for seed in range(60)])
    assert abs(float(found.mean()) - float(hat.trace())) < 4 * float(found.std()) / 60**0.5


def test_a_zero_jacobian_has_rank_zero_and_nothing_undefined() -> None:
    spectrum = estimated(of_matrix(torch.zeros(8, 3).double(), 4, 2), 1e-3, seed=0)
    assert spectrum.soft_rank(1e-3).middle == 0
    assert spectrum.trace == 0
    assert spectrum.largest(3) == [0]


def test_primal_dual_and_leverage_forms_agree_and_block_diagonals_lie_above() -> None:
    model, images, _ = task(small_mlp, COUNT, scale=3.0)
    ridge = 1e-3
    dual, primal = oracles.dual(model, images), oracles.gauss_newton(model, images)
    exact = oracles.soft_rank(dual, ridge)
    assert oracles.soft_rank(primal, ridge) == pytest.approx(exact, rel=1e-9)
    blocks = oracles.leverage_blocks(model, images, ridge)
    leverages = torch.einsum("nkj,njk->", oracles.output_curvature(model(images)), blocks)
    assert float(leverages) == pytest.approx(exact, rel=1e-9)
    sizes = [parameter.numel() for parameter in model.parameters()]
    block_diagonal = sum(
        oracles.soft_rank(part.split(sizes, dim=1)[i], ridge) for i, part in enumerate(primal.split(sizes))
    )
    diagonal = float((primal.diagonal() / (primal.diagonal() + ridge)).sum())
    assert exact < block_diagonal < diagonal


def test_more_samples_raise_it_but_less_than_in_proportion() -> None:
    model, images, _ = task(small_mlp, count=16)
    full = oracles.soft_rank(oracles.dual(model, images), 1e-3)
    halves = [oracles.soft_rank(oracles.dual(model, part), 1e-3) for part in images.split(8)]
    assert sum(halves) / 2 <= full <= sum(halves)


def test_shifting_all_logits_permuting_units_and_rescaling_before_batch_norm() -> None:
    model, images, targets = task(networks.cnn_with_batch_norm, COUNT)
    exact = oracles.soft_rank(oracles.dual(model, images), 1e-3)
    with torch.no_grad():
        model[-1].bias.add_(3.0)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
        model[-1].weight.copy_(model[-1].weight[:, order])
        for part in (model[6].weight, model[6].bias, model[7].weight, model[7].bias):
            part.copy_(part[order])
        for buffer in (model[7].running_mean, model[7].running_var):
            buffer.copy_(buffer[order])
    assert oracles.soft_rank(oracles.dual(model, images), 1e-3) == pytest.approx(exact, rel=1e-9)
    before = values_of(model, images, targets)["curvature/soft_rank_1e-3"]
    assert before == pytest.approx(exact, rel=0.2)


def test_at_a_fixed_ridge_it_changes_with_the_scale_of_the_logits_and_of_adjacent_layers() -> None:
    model, images, targets = task(small_mlp, COUNT)
    start = values_of(model, images, targets)["curvature/soft_rank"]
    with torch.no_grad():
        model[1].weight.mul_(4)
        model[1].bias.mul_(4)
        model[3].weight.div_(4)
    rescaled = values_of(model, images, targets)["curvature/soft_rank"]
    assert abs(rescaled / start - 1) > 0.01
    with torch.no_grad():
        model[3].weight.mul_(3)
        model[3].bias.mul_(3)
    assert abs(values_of(model, images, targets)["curvature/soft_rank"] / rescaled - 1) > 0.01


def test_as_the_ridge_vanishes_the_rank_is_left_and_adjacent_layers_may_be_rescaled() -> None:
    def few_weights() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))

    model, images, _ = task(few_weights, COUNT, scale=5.0)
    found, ranks = [], []
    for _ in range(2):
        exact = oracles.dual(model, 10 * images)
        ranks.append(int(torch.linalg.matrix_rank(exact, hermitian=True, rtol=1e-12)))
        found.append([oracles.soft_rank(exact, ridge) for ridge in (1e-3, 1e-11)])
        with torch.no_grad():
            for part, factor in ((model[2].weight, 4), (model[2].bias, 4), (model[4].weight, 0.25)):
                part.mul_(factor)
    (at_ridge, limit), (moved, same) = found
    assert 10 < ranks[0] == ranks[1] < 31, "below the number of parameters and of rows"
    assert limit == pytest.approx(ranks[0], rel=1e-3)
    assert same == pytest.approx(limit, rel=1e-3)
    assert moved != pytest.approx(at_ridge, rel=1e-2)


def test_the_same_seed_gives_the_same_value_another_one_within_its_spread() -> None:
    model, images, targets = task(small_mlp, COUNT)
    first, again = values_of(model, images, targets), values_of(model, images, targets, chunk=3)
    other = values_of(model, images, targets, seed=5)
    assert again["curvature/soft_rank"] == pytest.approx(first["curvature/soft_rank"], rel=1e-6)
    assert other["curvature/soft_rank"] != first["curvature/soft_rank"]
    assert other["curvature/soft_rank"] == pytest.approx(first["curvature/soft_rank"], rel=0.2)


def test_at_most_the_stated_samples_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.gauss_newton.SAMPLES", 6)
    assert values_of(*task(small_mlp, COUNT), chunk=7)["curvature/samples"] == 6


def test_small_ranks_take_a_second_start_large_ones_do_not() -> None:
    model, images, targets = task(small_mlp, COUNT)
    curvature = curvature_of(model, images, targets)
    assert len(estimated(curvature, 1e-1, seed=0).runs) >= 2
    many = of_matrix(torch.eye(400).double() * 40, 200, 2)
    assert len(estimated(many, 1e-3, seed=0).runs) == 1


def test_a_run_stops_at_the_tolerance() -> None:
    model, images, targets = task(small_mlp, COUNT)
    curvature = curvature_of(model, images, targets)
    run = one_run(curvature, curvature.random_signs(torch.Generator().manual_seed(0)), 1e-2)
    assert LanczosRuns((run,)).soft_rank(1e-2).half_width <= 0.02
    assert len(run) < 60


def test_the_largest_ritz_values_are_the_largest_eigenvalues_from_below() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=3.0)
    exact = torch.linalg.eigvalsh(oracles.dual(model, images)).flip(0).tolist()
    values = values_of(model, images, targets)
    found = [values["curvature/top_eigenvalue"], *(values[f"curvature/top_eigenvalue_{rank}"] for rank in (2, 3))]
    assert found[0] == pytest.approx(exact[0], rel=1e-3)
    assert all(0.9 * above <= below <= above * (1 + 1e-9) for below, above in zip(found, exact[:3], strict=True))
    curvature = curvature_of(model, images, targets)
    start = curvature.random_signs(torch.Generator().manual_seed(0))
    few = LanczosRuns((lanczos(curvature.product, start, 4), lanczos(curvature.product, start, 2)))
    assert all(below <= above * (1 + 1e-9) for below, above in zip(few.largest(4), exact[:4], strict=True))
    assert len(few.largest(9)) == 4
    assert len(few.largest(3)) == 3


def test_the_density_counts_directions_and_integrates_to_trace_and_soft_rank() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=3.0)
    spectrum = estimated(curvature_of(model, images, targets), 1e-2, seed=0)
    density = spectrum.density()
    eigenvalues, directions = density.eigenvalues, density.directions
    assert float(directions.sum()) == pytest.approx(COUNT * (networks.CLASSES - 1), rel=1e-9)
    assert float(directions @ eigenvalues) == pytest.approx(spectrum.trace, rel=1e-9)
    shrunk = float(directions @ (eigenvalues / (eigenvalues + 1e-2)))
    assert shrunk == pytest.approx(spectrum.soft_rank(1e-2).upper, rel=1e-6)
    exact = torch.linalg.eigvalsh(oracles.dual(model, images))
    for threshold in (1e-3, 1e-2, 1e-1):
        count = float(directions[eigenvalues > threshold].sum())
        assert count == pytest.approx(float((exact > threshold).sum()), rel=0.35, abs=3)


def test_the_spectrum_comes_with_the_soft_rank() -> None:
    found = measured("soft_rank", *task(small_mlp, COUNT))
    spectrum = found.figures["curvature/spectrum"]
    assert isinstance(spectrum, Spectrum)
    assert float(spectrum.eigenvalues.max()) == found.values["curvature/top_eigenvalue"]
