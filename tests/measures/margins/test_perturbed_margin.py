from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.activations import first_weight_layer
from lightning_gengap.measures.margins.perturbed_margin import KEYS, Moments, margins_of, trimmed_mean
from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted, same_class_mixes
from tests import networks, oracles
from tests.probes import measured, probing, taken

COUNT = 40


def task(factory: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double().eval(), networks.images(COUNT).double()
    return model, images, networks.mostly_right_targets(model, images)


def values_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    return measured("perturbed_margin", model, images, targets, **more).values


def trimmed_variation(model: nn.Module, tap: str, images: Tensor) -> float:
    """Square root of the mean variance of all features but the twentieth with most and with least of it."""
    rows = np.stack([oracles.activation_at(model, tap, image)[1].detach().numpy().ravel() for image in images])
    variances = sorted(np.mean((column - column.mean()) ** 2) for column in rows.T)
    cut = len(variances) // 20
    return float(np.sqrt(np.mean(variances[cut : len(variances) - cut])))


FIRST = {
    networks.cnn: "0",
    networks.cnn_with_batch_norm: "0",
    networks.mlp: "1",
    networks.ResNet: "conv1",
    networks.VisionTransformer: "patches",
}


@pytest.mark.parametrize("factory", FIRST, ids=lambda factory: factory.__name__)
def test_against_one_backward_per_image(factory: Callable[[], nn.Module]) -> None:
    model, images, targets = task(factory)
    values = values_of(model, images, targets, chunk=7, seed=3)
    stream = torch.Generator().manual_seed(3)
    for kind, make in (("mix", same_class_mixes), ("augment", flipped_and_shifted)):
        perturbed = make([images], targets, stream)(0) if kind == "mix" else make(images, stream)  # type: ignore[operator]
        distances = oracles.distances(model, FIRST[factory], perturbed, targets)
        assert (distances < 0).any()
        margins = distances / trimmed_variation(model, FIRST[factory], perturbed)
        # The guard of the gradient's norm, a part in 10^7 of the median square, is all that differs.
        assert values[f"perturbed_margin/{kind}_mean"] == pytest.approx(margins.mean(), rel=1e-4)
        assert values[f"perturbed_margin/{kind}_median"] == pytest.approx(np.median(margins), rel=1e-4)


def test_the_share_of_positive_margins_is_the_accuracy_under_the_same_perturbation() -> None:
    model, images, targets = task(networks.cnn)
    with probing(model, images, targets, seed=5) as probe:
        accuracies = taken("perturbation", probe).values
        mixes = same_class_mixes([images], targets, torch.Generator().manual_seed(5))
        margins = margins_of(probe, first_weight_layer(probe), mixes)
    assert len(margins) == COUNT
    assert float((margins > 0).double().mean()) == pytest.approx(accuracies["perturbation/mix_accuracy"])


def convolution_then(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), activation, nn.Flatten(), nn.Linear(384, networks.CLASSES))


def test_an_inplace_activation_behind_the_first_layer_changes_nothing() -> None:
    plain = values_of(*task(lambda: convolution_then(nn.ReLU())))
    assert set(plain) == set(KEYS)
    assert values_of(*task(lambda: convolution_then(nn.ReLU(inplace=True)))) == plain


def test_images_without_a_gradient_are_left_out() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.ReLU(), nn.Linear(3, 4)).double()
    images = networks.images(COUNT).double()
    with torch.no_grad():
        model[1].bias.fill_(-0.5)  # many images activate no unit, so no gradient arrives
        dead = (model[1](images.flatten(1)) <= 0).all(dim=1)
    assert 5 < int(dead.sum()) < 35
    with probing(model, images, torch.arange(COUNT) % 4) as probe:
        margins = margins_of(probe, first_weight_layer(probe), lambda place: images)
    assert len(margins) == COUNT - int(dead.sum())
    assert bool(margins.isfinite().all())


def test_without_gradients_at_the_first_layer_it_is_absent() -> None:
    model = networks.made(networks.mlp)
    with torch.no_grad():
        model[3].weight.zero_()
    found = measured("perturbed_margin", model, networks.images(20), torch.arange(20) % 4)
    assert found.values == {}
    reason = "outputs or gradients at 1 vanish"
    assert found.absent == {"perturbed_margin/mix_*": reason, "perturbed_margin/augment_*": reason}


def test_the_variance_survives_a_large_mean_and_any_split() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double() + 1e6
    moments = Moments()
    for part in rows.split(7):
        moments.add(part)
    torch.testing.assert_close(moments.variance(), rows.var(dim=0, correction=0), rtol=1e-6, atol=0)


def test_the_trimmed_mean_leaves_the_extremes_out() -> None:
    values = torch.arange(40).double()[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    values = torch.where(values == 39, 1e9, values)
    assert float(trimmed_mean(values)) == np.mean(range(2, 38))
    assert float(trimmed_mean(torch.tensor([1.0, 5.0]))) == 3.0
