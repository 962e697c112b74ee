from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests import networks
from tests.many_networks import NETWORKS
from tests.oracles import measures as measure_oracles
from tests.probes import measured, probing, taken

COUNT = 32


def task(factory: object, count: int = COUNT) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double(), networks.images(count).double()  # type: ignore[arg-type]
    return model, images, torch.arange(count) % networks.CLASSES


def test_separability_against_loops() -> None:
    model, images, targets = task(networks.cnn)
    with probing(model, images, targets, chunk=5, seed=2) as probe:
        values = taken("separability", probe).values
        mixes = taken("perturbation", probe).values["perturbation/mix_accuracy"]
    pooled = nn.functional.max_pool2d(model[0](images).detach(), 2).flatten(1)
    index = measure_oracles.davies_bouldin(pooled.numpy(), targets.numpy())
    assert values["separability/davies_bouldin"] == pytest.approx(index, rel=1e-9)
    assert values["separability/score"] == pytest.approx(index * (1 - mixes), rel=1e-9)


def test_separability_reads_before_an_inplace_activation() -> None:
    found = []
    for inplace in (False, True):
        model, images, targets = task(lambda inplace=inplace: networks.VGG(inplace))
        with torch.no_grad():
            model.features[1] = nn.ReLU(inplace)  # right behind the first convolution
        found.append(measured("separability", model, images, targets).values)
    assert found[0]
    assert found[0] == found[1]


def test_separability_needs_two_classes() -> None:
    model, images, _ = task(networks.cnn)
    found = measured("separability", model, images, torch.zeros(COUNT).long())
    assert found.values == {}
    assert found.absent == {"separability/*": "it needs finite features, two classes and two samples of one"}


def test_separability_needs_the_samples_on_the_first_axis() -> None:
    model, images = networks.made(NETWORKS["sequence first throughout"]), networks.images(COUNT)
    found = measured("separability", model, images, torch.arange(COUNT) % networks.CLASSES)
    assert found.absent == {"separability/*": "the samples are not on the first axis of the output of embed"}
