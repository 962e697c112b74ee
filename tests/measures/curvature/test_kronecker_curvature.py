from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from lightning_gengap.measures.curvature.kronecker_curvature import kronecker_curvature
from lightning_gengap.measures.curvature.kronecker_factors import factored
from tests import networks
from tests.derivatives.tasks import Factory, task
from tests.oracles import curvature as oracles
from tests.probes import Measured, measured, probing

COUNT, RIDGE = 6, 1e-2
KEY, SHARE = "curvature/kronecker/soft_rank", "curvature/kronecker/share"
SAMPLES, PARAMETERS = "curvature/kronecker/samples", "curvature/kronecker/parameters"
factors = sys.modules[factored.__module__]


def taken(model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Measured:
    return measured("kronecker_curvature", model, inputs, targets, **{"ridge": RIDGE, **more})


def covered(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[str]:
    with probing(model, inputs, targets) as probe:
        return [name for layer in factored(probe) for name in layer.names]


def block(model: nn.Module, inputs: Tensor, names: tuple[str, ...]) -> Tensor:
    """The rows and columns of the Gauss-Newton matrix that belong to the named parameters."""
    matrix, start, rows = oracles.gauss_newton(model, inputs), 0, []
    for name, parameter in model.named_parameters():
        if name in names:
            rows += range(start, start + parameter.numel())
        start += parameter.numel()
    return matrix[rows][:, rows]


def small_mlp() -> nn.Module:
    return networks.mlp((6, 5))


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 2, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(2, 3, 2, dilation=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, networks.CLASSES),
    )


def inputs_by_position(layer: nn.Module, entering: Tensor) -> list[Tensor]:
    """What one sample's outputs are made of, position by position, in the order of the outputs."""
    one = [torch.ones(1, dtype=torch.float64)] if layer.bias is not None else []
    if isinstance(layer, nn.Linear):
        return [torch.cat([entering, *one])]
    padded = pad(entering, (layer.padding[1],) * 2 + (layer.padding[0],) * 2)
    reach = [layer.dilation[i] * (layer.kernel_size[i] - 1) + 1 for i in (0, 1)]
    patches = []
    for top in range(0, padded.shape[1] - reach[0] + 1, layer.stride[0]):
        for left in range(0, padded.shape[2] - reach[1] + 1, layer.stride[1]):
            window = padded[:, top : top + reach[0] : layer.dilation[0], left : left + reach[1] : layer.dilation[1]]
            patches.append(torch.cat([window.flatten(), *one]))
    return patches


def brute_force(model: nn.Sequential, images: Tensor) -> float:
    """The sum over layers of the soft rank of an explicit A (x) B, sample by sample, position by position."""
    total = 0.0
    p = model(images).detach().softmax(dim=1)
    for index, layer in enumerate(model):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        patches, changes = [], []
        for sample, probabilities in zip(images, p, strict=True):
            entering = model[:index](sample[None]).detach()
            leaving = layer(entering).detach()
            slopes = torch.func.jacrev(lambda z, index=index: model[index + 1 :](z)[0])(leaving).detach()
            columns = torch.einsum("kc,ko->co", oracles.root(probabilities), slopes.flatten(1))
            patches += inputs_by_position(layer, entering[0])
            changes.append(columns.reshape(len(columns), leaving.shape[1], -1))
        inner = sum(torch.outer(patch, patch) for patch in patches) / len(patches)
        outer = sum(torch.einsum("cos,cqs->oq", change, change) for change in changes) / len(images)
        total += oracles.soft_rank(torch.kron(outer, inner), RIDGE)
    return total


@pytest.mark.parametrize("factory", [small_mlp, convolutions], ids=["mlp", "convolutions"])
def test_against_explicit_kronecker_products(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task(factory, COUNT)
    expected = brute_force(model, images)
    for numbers in (2**24, 100):  # in one block, and sample by sample
        monkeypatch.setattr(factors, "MOST_NUMBERS", numbers)
        values, absent, _, remarks = taken(model, images, targets, chunk=4)
        assert (absent, remarks) == ({}, [])
        sizes = {SAMPLES: len(images), PARAMETERS: sum(weight.numel() for weight in model.parameters())}
        assert values == {KEY: pytest.approx(expected, rel=1e-8), SHARE: 1.0, **sizes}


def test_one_sample_makes_it_the_exact_soft_rank_of_the_layers_blocks() -> None:
    model, images, targets = task(small_mlp, 1)
    layers = [(f"{i}.weight", f"{i}.bias") for i in (1, 3, 5)]
    exact = sum(oracles.soft_rank(block(model, images, names), RIDGE) for names in layers)
    assert taken(model, images, targets).values[KEY] == pytest.approx(exact, rel=1e-8)
    assert exact > oracles.soft_rank(oracles.gauss_newton(model, images), RIDGE)


def test_softmax_regression_with_equal_probabilities_is_exact() -> None:
    model, images, targets = task(networks.linear, COUNT)
    nn.init.zeros_(model[1].weight)
    nn.init.constant_(model[1].bias, 0.7)
    exact = oracles.soft_rank(oracles.gauss_newton(model, images), RIDGE)
    assert taken(model, images, targets).values[KEY] == pytest.approx(exact, rel=1e-8)


def test_other_layers_enter_by_their_exact_diagonal() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4))

    model, images, targets = task(normed, 1)
    exact = sum(oracles.soft_rank(block(model, images, (f"{i}.weight", f"{i}.bias")), RIDGE) for i in (1, 4))
    diagonal = block(model, images, ("2.weight", "2.bias")).diagonal()
    values, _, _, remarks = taken(model, images, targets)
    assert remarks == []
    assert values[KEY] == pytest.approx(exact + float((diagonal / (diagonal + RIDGE)).sum()), rel=1e-8)
    assert values[SHARE] == pytest.approx(1 - 10 / sum(p.numel() for p in model.parameters()))


def test_ridges_that_differ_between_layers() -> None:
    model, images, targets = task(small_mlp, 1)
    ridges = {name: torch.tensor(10.0 ** -int(name[0])).double() for name, _ in model.named_parameters()}
    exact = sum(oracles.soft_rank(block(model, images, (f"{i}.weight", f"{i}.bias")), 10.0**-i) for i in (1, 3, 5))
    assert taken(model, images, targets, ridge=ridges).values[KEY] == pytest.approx(exact, rel=1e-6)


def test_weights_with_another_use_are_found_out() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            x = torch.tanh(self.second(torch.tanh(self.first(images.flatten(1)))))
            return self.head(torch.tanh(linear(x, self.second.weight)))

    assert covered(*task(Twice, COUNT)) == ["first.weight", "first.bias", "head.weight", "head.bias"]


def test_attention_tied_and_wide_layers_have_no_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    names = covered(*task(networks.VisionTransformer, COUNT))
    assert "patches.weight" in names
    assert not any("attention" in name or "norm" in name for name in names)
    model, images, targets = task(small_mlp, COUNT)
    monkeypatch.setattr(factors, "LARGEST_SIDE", 100)
    assert covered(model, images, targets) == ["3.weight", "3.bias", "5.weight", "5.bias"]


def test_frozen_biases_have_no_row_and_frozen_weights_no_factors() -> None:
    model, images, targets = task(small_mlp, 1)
    model[1].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    assert covered(model, images, targets) == ["1.weight", "5.weight", "5.bias"]
    assert taken(model, images, targets).remarks == []


def test_a_layer_called_twice_counts_both_calls_as_positions() -> None:
    with probing(*task(networks.Reused, COUNT)) as probe:
        layers = {layer.names[0]: layer.positions for layer in factored(probe)}
    assert layers == {"first.weight": 6, "shared.weight": 12, "head.weight": 6}


def test_operations_in_place_change_nothing() -> None:
    there, images, targets = task(lambda: networks.cnn_with_batch_norm(inplace=True), COUNT)
    here, _, _ = task(networks.cnn_with_batch_norm, COUNT)
    assert taken(there, images, targets).values == pytest.approx(taken(here, images, targets).values, rel=1e-10)


def test_one_forward_per_chunk() -> None:
    model, images, targets = task(small_mlp, COUNT)
    seen: list[int] = []
    with probing(model, images, targets) as probe:
        handle = model[1].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
        kronecker_curvature(probe)
        handle.remove()
    assert seen == [1, 1, 2, len(images)], "one shows whether a gradient arrives; one and two, what graphs keep"


@pytest.mark.parametrize("kind", ["many classes", "frozen", "no linear layer"])
def test_what_is_undefined_is_absent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task(small_mlp, COUNT)
    why = "no parameter requires a gradient"
    if kind == "frozen":
        model.requires_grad_(False)
    elif kind == "many classes":
        monkeypatch.setattr("lightning_gengap.measures.curvature.diagonal_curvature.MOST_CLASSES", 3)
        why = "it takes a backward for each of 4 classes"
    else:
        monkeypatch.setattr(factors, "LARGEST_SIDE", 1)
        why = "no linear layer or convolution is trained and called as such"
    found = taken(model, images, targets)
    assert (found.values, found.absent) == ({}, {"curvature/kronecker/*": why})
