from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.difficulty.kernel_difficulty import WIDTH, sketch, sketched_gradients
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.oracles import curvature as curvature_oracles
from tests.oracles import measures as measure_oracles
from tests.probes import measured, probing, taken

COUNT = 24
KEY = "kernel_difficulty/ridge_accuracy"


def task(factory: Callable[[], nn.Module], count: int = COUNT) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double().eval(), networks.images(count).double()
    return model, images, torch.arange(count) % networks.CLASSES


def sketched(model: nn.Module, images: Tensor, seed: int, chunk: int | None = None) -> Tensor:
    initial = copy_state(model)
    with probing(model, images, torch.zeros(len(images)).long(), chunk=chunk, seed=seed) as probe:
        return sketched_gradients(probe, initial)


def tangent_kernel(model: nn.Module, images: Tensor) -> Tensor:
    """sum_k J_k(x) . J_k(x') for all pairs."""
    rows = curvature_oracles.jacobian(model, images)
    return torch.einsum("nkp,mkp->nm", rows, rows)


def small_mlp() -> nn.Module:
    return networks.mlp((6,))


@pytest.mark.parametrize(
    "factory", [small_mlp, networks.cnn_with_batch_norm, networks.Tokens], ids=lambda factory: factory.__name__
)
def test_products_of_sketches_are_unbiased_for_the_tangent_kernel(factory: Callable[[], nn.Module]) -> None:
    model, inputs, _ = task(factory, 4)
    if factory is networks.Tokens:
        inputs = networks.token_ids(4)
    expected = tangent_kernel(model, inputs)
    draws = 20
    found = torch.stack([(rows := sketched(model, inputs, seed)) @ rows.T for seed in range(draws)])
    error = found.std(dim=0) / draws**0.5 + 1e-12
    assert float(((found.mean(dim=0) - expected).abs() / error).max()) < 4.5  # 10 pairs


def test_a_sketch_keeps_every_entry_once() -> None:
    rows = {"long": torch.randn(3, 2 * WIDTH + 5), "short": torch.randn(3, 2, 2)}
    signs = {"long": torch.ones(2 * WIDTH + 5), "short": torch.tensor([1.0, -1.0, 1.0, -1.0])}
    found = sketch(rows, signs)
    assert found.shape == (3, WIDTH)
    expected = rows["long"][:, 5:6] + rows["long"][:, WIDTH + 5 : WIDTH + 6]
    torch.testing.assert_close(found[:, 5:6].float(), expected)
    expected = rows["long"][:, 1] + rows["long"][:, WIDTH + 1] + rows["long"][:, 2 * WIDTH + 1] - rows["short"][:, 0, 1]
    torch.testing.assert_close(found[:, 1].float(), expected)


def test_the_value_is_that_of_refits_with_the_centred_kernel() -> None:
    model, images, targets = task(networks.cnn, 40)
    initial = copy_state(model)
    value = measured("kernel_difficulty", model, images, targets, chunk=7, seed=2, initial_state=initial).values[KEY]
    rows = sketched(model, images, 2).numpy()
    gram = (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T
    gram /= gram.diagonal().mean()
    accuracies = [
        np.mean(oracles.refits(gram, targets.numpy(), ridge).argmax(1) == targets.numpy()) for ridge in RIDGES
    ]
    assert value == pytest.approx(max(accuracies))


def test_the_present_weights_and_the_scale_of_the_logits_do_not_matter() -> None:
    model, images, targets = task(networks.cnn_with_batch_norm)
    initial = copy_state(model)
    with probing(model, images, targets, initial_state=initial) as probe:
        before = taken("kernel_difficulty", probe).values
        features = sketched_gradients(probe, initial)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
        model[1].running_var.mul_(3)
    with probing(model, images, targets, initial_state=initial) as probe:
        assert taken("kernel_difficulty", probe).values == before
        assert torch.equal(sketched_gradients(probe, initial), features)
    model, images, targets = task(networks.linear)  # where the kernel does not depend on the weights at all
    before = measured("kernel_difficulty", model, images, targets, initial_state=copy_state(model)).values
    measure_oracles.scale_last_layer(model[-1], 7.0)
    assert measured("kernel_difficulty", model, images, targets, initial_state=copy_state(model)).values == before


def test_what_is_undefined_is_absent_with_a_reason() -> None:
    model, images, targets = task(networks.mlp)

    def reason(model: nn.Module, images: Tensor, **more: object) -> str:
        found = measured("kernel_difficulty", model, images, targets[: len(images)], **more)
        assert (found.values, list(found.absent)) == ({}, [KEY])
        return found.absent[KEY]

    initial = copy_state(model)
    assert reason(model, images) == "there are no initial weights"
    assert reason(model, torch.zeros_like(images), initial_state=initial) == "the gradients do not vary"
    frozen = networks.made(networks.mlp).double().requires_grad_(False)
    assert "no parameter is trainable" in reason(frozen, images, initial_state=copy_state(frozen))
