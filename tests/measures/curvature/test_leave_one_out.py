from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from lightning_gengap.linalg.leverage import (
    dense_blocks,
    dual_blocks,
    few_blocks,
    gram_of,
    kronecker_blocks,
    left_out,
    output_curvature,
    weight_blocks,
)
from lightning_gengap.measures.curvature.leave_one_out import (
    affordable,
    last_layer,
    leave_one_out,
    network_leave_one_out,
)
from tests import networks
from tests.oracles import curvature as oracles
from tests.probes import probing

RIDGE = 1e-2


def small_mlp() -> nn.Module:
    return networks.mlp((6,))


def task(factory: Callable[[], nn.Module], count: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double().eval(), networks.images(count).double()
    return model, images, networks.mostly_right_targets(model, images)


def softmax_task(count: int, seed: int, inputs: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, inputs, generator=generator).double()
    teacher = torch.randn(classes, inputs, generator=generator).double()
    targets = torch.multinomial((features @ teacher.T).softmax(dim=1), 1, generator=generator)[:, 0]
    return features, targets


def test_ridge_regression_is_exact_leave_one_out() -> None:
    # For a squared loss the output curvature is the identity and one Newton step is a refit.
    generator = torch.Generator().manual_seed(0)
    count, classes = 14, 2
    features = torch.randn(count, 4, generator=generator).double()
    values = torch.randn(count, classes, generator=generator).double()
    identity = torch.eye(classes).double().expand(count, -1, -1)
    blocks = dense_blocks(features, identity, RIDGE)
    penalty = count * RIDGE * torch.eye(4).double()

    def refitted(rows: Tensor) -> Tensor:
        return torch.linalg.solve(features[rows].T @ features[rows] + penalty, features[rows].T @ values[rows])

    everyone = torch.arange(count)
    fitted = features @ refitted(everyone)
    amplified = torch.linalg.solve(identity - blocks, (fitted - values)[:, :, None])
    approximate = fitted + (blocks @ amplified)[:, :, 0]
    exact = torch.stack([features[i] @ refitted(everyone[everyone != i]) for i in range(count)])
    torch.testing.assert_close(approximate, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-2, 1e-1])
def test_softmax_regression_is_near_exact_refits(ridge: float) -> None:
    count = 40
    features, targets = softmax_task(count, seed=0)
    weights = oracles.fitted_softmax(features, targets, 3, count * ridge)
    logits = features @ weights.T
    blocks = dense_blocks(features, output_curvature(logits.softmax(dim=1)), ridge)
    approximate = left_out(logits, targets, blocks).logits
    exact = []
    for i in range(count):
        rest = [j for j in range(count) if j != i]
        exact.append(features[i] @ oracles.fitted_softmax(features[rest], targets[rest], 3, count * ridge).T)
    gap = float(cross_entropy(torch.stack(exact), targets) - cross_entropy(logits, targets))
    assert gap > 0.05
    assert float(cross_entropy(approximate, targets) - cross_entropy(logits, targets)) == pytest.approx(gap, rel=0.1)
    assert float((approximate - torch.stack(exact)).abs().max()) < 0.5


def test_the_dense_form_is_that_of_the_explicit_jacobian() -> None:
    model, images, _ = task(networks.linear, count=8)
    blocks = dense_blocks(
        torch.cat([images.flatten(1), torch.ones(8, 1).double()], dim=1),
        output_curvature(model(images).softmax(1)),
        RIDGE,
    )
    torch.testing.assert_close(blocks, oracles.leverage_blocks(model, images, RIDGE), rtol=1e-8, atol=1e-10)


def test_the_dual_form_is_that_of_the_explicit_jacobian() -> None:
    model, images, _ = task(small_mlp, count=10)
    gram = gram_of(oracles.jacobian(model, images).flatten(0, 1))
    blocks = dual_blocks(gram, model(images).detach().softmax(dim=1), RIDGE)
    torch.testing.assert_close(blocks, oracles.leverage_blocks(model, images, RIDGE), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("varies", [False, True])
def test_the_form_for_few_samples_is_the_dense_one(varies: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 20, generator=generator).double()
    probabilities = torch.randn(7, 3, generator=generator).double().softmax(dim=1)
    ridge = RIDGE * (0.1 + torch.rand(3, 20, generator=generator).double()) if varies else RIDGE
    exact = dense_blocks(features, output_curvature(probabilities), ridge)
    torch.testing.assert_close(few_blocks(features, probabilities, ridge), exact, rtol=1e-9, atol=1e-12)


def test_kronecker_and_dense_forms_agree_where_the_curvature_is_a_product() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()
    same = output_curvature(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)).expand(30, -1, -1)
    torch.testing.assert_close(
        kronecker_blocks(features, same, RIDGE), dense_blocks(features, same, RIDGE), rtol=1e-9, atol=1e-12
    )


def test_the_first_order_of_the_loss_gap_is_the_takeuchi_criterion() -> None:
    model, images, targets = task(small_mlp)
    ridge = 1e3
    blocks = oracles.leverage_blocks(model, images, ridge)  # so large a ridge leaves the first order only
    logits = model(images).detach()
    gap = float(cross_entropy(left_out(logits, targets, blocks).logits, targets) - cross_entropy(logits, targets))
    assert gap == pytest.approx(oracles.tic(model, images, targets, ridge), rel=0.01)


def test_leverage_lies_in_the_unit_interval_and_sums_to_the_soft_rank() -> None:
    features, targets = softmax_task(30, seed=1)
    logits = features @ oracles.fitted_softmax(features, targets, 3, 30 * 1e-3).T
    blocks = dense_blocks(features, output_curvature(logits.softmax(dim=1)), 1e-3)
    leverage = left_out(logits, targets, blocks).leverage
    assert float(leverage.min()) > 0
    assert float(leverage.max()) < 1


def test_last_layer_values_by_hand() -> None:
    model, images, targets = task(networks.cnn)
    with probing(model, images, targets, chunk=7, ridge=RIDGE) as probe:
        values = leave_one_out(probe)
        assert probe.notes == []
    head = nn.Sequential(nn.Flatten(), model[-1])
    features = model[:-1](images).detach()
    logits = model(images).detach()
    left = left_out(logits, targets, oracles.leverage_blocks(head, features, RIDGE)).logits
    loss = float(cross_entropy(left, targets) - cross_entropy(logits, targets))
    hits = [float((of.argmax(1) == targets).double().mean()) for of in (logits, left)]
    assert values["loo/last_layer/loss_gap"] == pytest.approx(loss, rel=1e-9)
    assert values["loo/last_layer/accuracy_gap"] == pytest.approx(hits[0] - hits[1], abs=1e-12)
    assert 0 <= values["loo/last_layer/leverage"] <= 1
    assert values["loo/last_layer/exact"] == 1
    assert values["loo/last_layer/samples"] == 24


@pytest.mark.parametrize("count", [5, 24])
def test_few_samples_of_a_wide_layer_are_exact_too(count: int) -> None:
    model, images, targets = task(lambda: networks.mlp((16,)), count=count)
    head, features = nn.Sequential(nn.Flatten(), model[-1]), model[:-1](images).detach()
    ridge = {"3.weight": torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) + 0.1, "3.bias": torch.ones(())}
    ridge |= {name: torch.ones(()) for name in ("1.weight", "1.bias")}
    flat = torch.cat([ridge["3.weight"].flatten(), torch.ones(4)]).double()
    with probing(model, images, targets, ridge=ridge) as probe:
        values = leave_one_out(probe)
    logits = model(images).detach()
    left = left_out(logits, targets, oracles.leverage_blocks(head, features, flat)).logits
    loss = float(cross_entropy(left, targets) - cross_entropy(logits, targets))
    assert values["loo/last_layer/loss_gap"] == pytest.approx(loss, rel=1e-6)
    assert values["loo/last_layer/exact"] == 1


@pytest.mark.parametrize(("width", "exact"), [(512, 1), (520, 0)])
def test_512_features_and_ten_classes_are_exact_more_are_not(width: int, exact: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, 10))
    inputs = torch.randn(30, width, generator=torch.Generator().manual_seed(0))
    with probing(model, inputs, torch.arange(30) % 10, ridge=RIDGE) as probe:
        values = leave_one_out(probe)
    assert values["loo/last_layer/exact"] == exact


def test_rescaling_the_last_relu_layer_changes_nothing_only_if_the_ridge_is_rescaled() -> None:
    model, images, targets = task(lambda: networks.mlp((6,)))
    plain = {name: torch.tensor(RIDGE) for name, _ in model.named_parameters()}
    with probing(model, images, targets, ridge=plain) as probe:
        before = leave_one_out(probe)["loo/last_layer/loss_gap"]
    with torch.no_grad():
        for part, factor in ((model[1].weight, 3), (model[1].bias, 3), (model[3].weight, 1 / 3)):
            part.mul_(factor)
    found = []
    for ridge in (plain, plain | {"3.weight": torch.tensor(9 * RIDGE)}):
        with probing(model, images, targets, ridge=ridge) as probe:
            found.append(leave_one_out(probe)["loo/last_layer/loss_gap"])
    assert found[0] != pytest.approx(before, rel=1e-2)
    assert found[1] == pytest.approx(before, rel=1e-5)  # the ridge is given in float32


@pytest.mark.parametrize("factory", [networks.ResNet, networks.VisionTransformer, networks.Nested, networks.Reused])
def test_the_last_layer_is_found(factory: Callable[[], nn.Module]) -> None:
    model, images, targets = task(factory)
    with probing(model, images, targets, chunk=10) as probe:
        layer = last_layer(probe)
    assert layer is not None
    torch.testing.assert_close(layer.logits, model(images).detach())
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    product = layer.features @ torch.cat([last.weight, last.bias[:, None]], dim=1).T
    torch.testing.assert_close(product.detach(), layer.logits)


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = small_mlp()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images) / 2


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, networks.CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("factory", "why"), [(Temperature, "does not yield the logits"), (convolutional, "no linear layer")]
)
def test_logits_from_elsewhere_are_absent_with_a_note(factory: Callable[[], nn.Module], why: str) -> None:
    model, images, targets = task(factory)
    with probing(model, images, targets) as probe:
        assert leave_one_out(probe) == {}
        assert why in probe.notes[0]


def test_a_frozen_last_layer_is_absent_with_a_note() -> None:
    model, images, targets = task(small_mlp)
    model[-1].requires_grad_(False)
    with probing(model, images, targets) as probe:
        assert leave_one_out(probe) == {}
        assert "frozen" in probe.notes[0]


def test_rescaling_before_a_batch_norm_changes_nothing() -> None:
    model, images, targets = task(networks.cnn_with_batch_norm)
    with probing(model, images, targets) as probe:
        before = leave_one_out(probe)
    with torch.no_grad():
        for part in (model[6].weight, model[6].bias, model[7].running_mean):
            part.mul_(3)
        model[7].running_var.mul_(9).add_(8 * model[7].eps)
    with probing(model, images, targets) as probe:
        assert leave_one_out(probe) == pytest.approx(before, rel=1e-9)


def test_network_values_by_hand() -> None:
    model, images, targets = task(small_mlp)
    with probing(model, images, targets, chunk=7, ridge=RIDGE) as probe:
        values = network_leave_one_out(probe)
    logits = model(images).detach()
    left = left_out(logits, targets, oracles.leverage_blocks(model, images, RIDGE)).logits
    floored = left.log_softmax(dim=1).clamp(min=math.log(1e-10))
    loss = float(nll_loss(floored, targets) - cross_entropy(logits, targets))
    assert values["loo/network/samples"] == 24
    assert values["loo/network/loss_gap"] == pytest.approx(loss, rel=1e-6)


def test_fewer_weights_than_rows_give_the_same_from_their_own_side() -> None:
    model, images, targets = task(small_mlp, count=400)
    with probing(model, images, targets, ridge=RIDGE) as probe:
        assert sum(weight.numel() for weight in model.parameters()) < 4 * 400
        values = network_leave_one_out(probe)
    rows, probabilities = oracles.jacobian(model, images).flatten(0, 1), model(images).detach().softmax(dim=1)
    blocks = dual_blocks(gram_of(rows), probabilities, RIDGE)
    torch.testing.assert_close(weight_blocks(rows, probabilities, RIDGE), blocks, rtol=1e-7, atol=1e-10)
    left = left_out(model(images).detach(), targets, blocks)
    hits = [(logits.argmax(1) == targets).double().mean() for logits in (model(images), left.logits)]
    assert values["loo/network/samples"] == 400
    assert values["loo/network/accuracy_gap"] == pytest.approx(float(hits[0] - hits[1]), abs=1e-12)
    assert values["loo/network/leverage"] == pytest.approx(float((left.leverage > 0.99).double().mean()), abs=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(3, 10), (64, 70), (65, 200), (700, 33)])
def test_the_gram_matrix_is_the_product(rows: int, columns: int) -> None:
    jacobian = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    expected = jacobian.double() @ jacobian.double().T
    torch.testing.assert_close(gram_of(jacobian), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(gram_of(jacobian), gram_of(jacobian).T)


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [(3_466, 7_744), (5_000, 5_368), (5_001, 500), (53_000, 500), (62_006, 432), (272_474, 98), (1_342_000, 20)],
)
def test_as_many_samples_as_fit_into_memory(parameters: int, samples: int) -> None:
    assert affordable(parameters, 10) == samples


def test_a_large_network_is_absent_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(11_173_962, 10) == 2
    model, images, targets = task(small_mlp)
    monkeypatch.setattr(
        importlib.import_module("lightning_gengap.measures.curvature.leave_one_out"), "DENSE_JACOBIAN", 10_000
    )
    with probing(model, images, targets) as probe:
        assert network_leave_one_out(probe) == {}
        assert probe.notes == ["loo/network/* is absent: 1186 trained parameters, 2 samples fit into memory"]


def test_estimates_meet_the_gap_of_refitted_softmax_regressions() -> None:
    # The anchor of softmax regression with a well specified teacher, n = 200, ridge 0.1: gap 0.038 nats.
    count, ridge, classes = 200, 0.1, 3
    found = []
    for seed in range(12):
        features, targets = softmax_task(count + 2000, seed, inputs=8, classes=classes)
        seen, labels = features[:count], targets[:count]
        weights = oracles.fitted_softmax(seen, labels, classes, count * ridge)
        logits = seen @ weights.T
        curvature = output_curvature(logits.softmax(dim=1))
        blocks = dense_blocks(seen, curvature, ridge)
        residuals = logits.softmax(dim=1) - one_hot(labels, classes)
        train = cross_entropy(logits, labels)
        found.append(
            (
                float(cross_entropy(features[count:] @ weights.T, targets[count:]) - train),
                float(cross_entropy(left_out(logits, labels, blocks).logits, labels) - train),
                float(torch.einsum("nk,nkj,nj->", residuals, blocks, residuals) / count),
                float(torch.einsum("nkj,njk->", curvature, blocks) / count),
            )
        )
    table = torch.tensor(found)
    gap, loo, tic, rank = table.mean(dim=0).tolist()
    error = float(table[:, 0].std()) / len(found) ** 0.5
    assert abs(loo - gap) < 4 * error
    assert tic == pytest.approx(0.0375, rel=0.1)
    assert rank == pytest.approx(0.0557, rel=0.1)
    assert loo == pytest.approx(0.0384, rel=0.15)
