from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from lightning_gengap.measures.difficulty.separability import separability
from lightning_gengap.measures.margins.calibration import calibration, expected_calibration_error, mean_entropy
from lightning_gengap.measures.margins.k_variance import k_variance, mean_class_spread, wasserstein
from lightning_gengap.measures.perturbation.perturbation import perturbation
from tests import networks, oracles
from tests.oracles import measures as measure_oracles
from tests.probes import probing

COUNT = 32


def task(factory: object, count: int = COUNT) -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(factory).double(), networks.images(count).double()  # type: ignore[arg-type]
    return model, images, torch.arange(count) % networks.CLASSES


def test_calibration_error_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = (
        3 * torch.randn(400, 5, generator=generator).double(),
        torch.randint(5, (400,), generator=generator),
    )
    expected = measure_oracles.expected_calibration_error(logits.softmax(1).numpy(), targets.numpy(), 15)
    assert expected_calibration_error(logits, targets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_calibration_error_is_that_of_the_streaming_metric(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(300, 7, generator=generator).double()
    targets = torch.randint(7, (300,), generator=generator)
    metric = MulticlassCalibrationError(num_classes=7, n_bins=15, norm="l1")
    for rows, labels in zip(logits.split(64), targets.split(64), strict=True):
        metric.update(rows, labels)
    found = expected_calibration_error(logits, targets)
    assert found == pytest.approx(float(metric.compute()), rel=1e-5)
    exact = measure_oracles.expected_calibration_error(logits.softmax(1).numpy(), targets.numpy(), 15)
    assert found == pytest.approx(exact, rel=1e-5)


def test_calibration_of_certain_and_of_uniform_predictions() -> None:
    targets = torch.arange(40) % 4
    certain = 1e4 * torch.eye(4, dtype=torch.float64)[targets]
    assert expected_calibration_error(certain, targets) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(certain, (targets + 1) % 4) == pytest.approx(1, abs=1e-6)
    assert mean_entropy(certain) == 0
    assert mean_entropy(torch.zeros(7, 4).double()) == pytest.approx(np.log(4))


def test_calibration_reads_the_shared_logits() -> None:
    model, images, targets = task(networks.mlp)
    with probing(model, images, targets, chunk=5) as probe:
        values = calibration(probe)
    logits = model(images).detach()
    assert values["calibration/error_15"] == pytest.approx(expected_calibration_error(logits, targets))
    p = logits.softmax(1).numpy()
    assert values["calibration/entropy"] == pytest.approx(float(-(p * np.log(p)).sum(axis=1).mean()))


def test_wasserstein_is_the_cheapest_of_all_matchings() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 3, generator=generator).double()
    expected = measure_oracles.cheapest_matching(first.numpy(), second.numpy())
    assert wasserstein(first, second) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(first, first[torch.randperm(6, generator=generator)]) == 0
    assert wasserstein(first, first + 2.0) == pytest.approx(2 * np.sqrt(3), rel=1e-9)


def test_class_spread_is_weighted_by_the_classes_shares() -> None:
    features = torch.tensor([[0.0], [3.0], [10.0], [11.0], [10.0], [11.0], [99.0]])
    targets = torch.tensor([0, 0, 1, 1, 1, 1, 2])  # class 2 has one sample
    found = {mean_class_spread(features, targets, seed) for seed in range(20)}
    assert {round(value, 9) for value in found} == {round((2 * 3 + 4 * w) / 6, 9) for w in (0.0, 1.0)}


def test_k_variance_is_the_median_distance_over_the_spread() -> None:
    model, images, targets = task(networks.mlp)
    with probing(model, images, targets, chunk=5, seed=3) as probe:
        values = k_variance(probe)
        taps = {tap.layer: str(tap) for tap in probe.layout.taps}
    assert set(values) == {"k_variance/classes", *(f"k_variance/{layer}" for layer in taps)}
    assert values["k_variance/classes"] == networks.CLASSES
    for layer, tap in taps.items():
        features = torch.stack([oracles.activation_at(model, tap, image)[1].detach()[0] for image in images])
        distances = oracles.distances(model, tap, images, targets)
        spread = mean_class_spread(features, targets, 3)
        assert values[f"k_variance/{layer}"] == pytest.approx(np.median(distances) / spread, rel=1e-9)


@pytest.mark.parametrize("measure", [k_variance, separability])
def test_scalings_change_nothing(measure: object) -> None:
    model, images, targets = task(networks.cnn)

    def values() -> dict[str, float]:
        with probing(model, images, targets) as probe:
            return measure(probe)  # type: ignore[operator]

    before = values()
    assert before
    measure_oracles.scale_last_layer(model[-1], 7.0)
    assert values() == pytest.approx(before, rel=1e-9)
    measure_oracles.rescale_relu(model[0], model[2], 5.0)
    assert values() == pytest.approx(before, rel=1e-9)
    model, images, targets = task(networks.cnn_with_batch_norm)
    before = values()
    measure_oracles.rescale_batch_norm(model[0], model[1], 3.0)
    assert values() == pytest.approx(before, rel=1e-9)


def test_k_variance_of_constant_features_is_absent_with_a_note() -> None:
    model, images, targets = task(networks.mlp)
    with torch.no_grad():
        model[1].weight.zero_()
    with probing(model, images, targets) as probe:
        assert list(k_variance(probe)) == ["k_variance/classes"]
        assert any(note.startswith("k_variance/h1 is absent") for note in probe.notes)


def test_separability_against_loops() -> None:
    model, images, targets = task(networks.cnn)
    with probing(model, images, targets, chunk=5, seed=2) as probe:
        values = separability(probe)
        mixes = perturbation(probe)["perturbation/mix_accuracy"]
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
        with probing(model, images, targets) as probe:
            found.append(separability(probe))
    assert found[0] == found[1]


def test_separability_needs_images_and_classes() -> None:
    ids = networks.token_ids(20)
    with probing(networks.made(networks.Tokens), ids, torch.arange(20) % 4) as probe:
        assert separability(probe) == {}
        assert len(probe.notes) == 1
    model, images, _ = task(networks.cnn)
    with probing(model, images, torch.zeros(COUNT).long()) as probe:
        assert separability(probe) == {}
        assert len(probe.notes) == 1
