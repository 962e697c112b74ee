from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import Measured, measured


def distances(model: nn.Module, initial: nn.Module | None) -> Measured:
    images = networks.images(10).to(next(model.parameters()).dtype)
    state = None if initial is None else copy_state(initial)
    return measured("distance", model, images, torch.arange(10) % 4, initial_state=state)


def test_dense_layers_against_numpy() -> None:
    model, initial = networks.made(networks.mlp, seed=0).double(), networks.made(networks.mlp, seed=1).double()
    values, absent, *_ = distances(model, initial)
    layers = [(a.weight.detach().numpy(), b.weight.detach().numpy()) for a, b in zip(model[1::2], initial[1::2])]  # noqa: B905
    assert absent == {}
    assert values == pytest.approx(
        {
            "distance/parameter_norm": sum((a**2).sum() for a, _ in layers),
            "distance/frobenius": sum(((a - b) ** 2).sum() for a, b in layers),
            "distance/spectral": sum(np.linalg.norm(a - b, 2) ** 2 for a, b in layers),
        },
        rel=1e-6,
    )


def test_batch_norms_of_both_models_are_folded() -> None:
    model = networks.made(networks.cnn_with_batch_norm, seed=0).double()
    initial = networks.made(networks.cnn_with_batch_norm, seed=1).double()
    before = [value.clone() for value in model.state_dict().values()]
    values = distances(model, initial).values
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    now, then = measure_oracles.folded_kernels(model), measure_oracles.folded_kernels(initial)
    changes = [a - b for a, b in zip(now, then, strict=True)]
    spectral = np.linalg.norm(changes[-1], 2) ** 2
    for change in changes[:-1]:
        layer = nn.Conv2d(*change.shape[1::-1], 3, padding=1, bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(change))
        matrix, _ = measure_oracles.affine([layer], (change.shape[1], 8, 8))
        spectral += np.linalg.norm(matrix, 2) ** 2
    assert values["distance/frobenius"] == pytest.approx(sum((change**2).sum() for change in changes), rel=1e-9)
    assert values["distance/parameter_norm"] == pytest.approx(sum((a**2).sum() for a in now), rel=1e-9)
    assert values["distance/spectral"] == pytest.approx(spectral, rel=1e-2)
    assert values["distance/spectral"] <= spectral * (1 + 1e-9)  # power iteration comes from below


def test_the_initial_model_is_at_distance_zero() -> None:
    values = distances(*[networks.made(networks.cnn_with_batch_norm)] * 2).values
    assert values["distance/frobenius"] == values["distance/spectral"] == 0


def test_what_is_undefined_has_a_reason() -> None:
    values, absent, *_ = distances(networks.made(networks.mlp), None)
    assert list(values) == ["distance/parameter_norm"]
    assert absent == dict.fromkeys(["distance/frobenius", "distance/spectral"], "the initial weights are unknown")


def test_computed_weights_are_compared_as_computed() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 4)))

    model, initial = networks.made(build, seed=0).double(), networks.made(build, seed=1).double()
    values = distances(model, initial).values
    moved = (model[1].weight - initial[1].weight).detach()
    assert values["distance/frobenius"] == pytest.approx(float(moved.square().sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda layer: nn.utils.parametrizations.weight_norm(layer), True),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), False),
    ],
    ids=["parametrized", "pruned"],
)
def test_computed_weights_have_their_true_distance_or_none(change: Callable[[nn.Module], object], known: bool) -> None:
    """Pruning writes the weight in the forward: at the initial parameters it would still be that of now."""
    model, images = networks.made(networks.mlp).double(), networks.images(20).double()
    change(model[1])
    initial, weight = copy_state(model), model[1].weight.detach().clone()
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.mul_(1.5)
        model(images)
    found = measured("distance", model, images, torch.arange(20) % 4, initial_state=initial)
    if known:
        expected = float((model[1].weight.detach() - weight).square().sum())
        assert found.values["distance/frobenius"] == pytest.approx(expected, rel=1e-9)
    else:
        assert set(found.values) == {"distance/parameter_norm"}
        assert set(found.absent) == {"distance/frobenius", "distance/spectral"}
