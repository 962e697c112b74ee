from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.difficulty import compared_samples
from lightning_gengap.measures.difficulty.compared_samples import compared, compared_inputs
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.probes import measured, probing

COUNT = 30
TARGETS = torch.arange(COUNT) % 3


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))


def inputs_of(images: Tensor, chunk: int = 7) -> Tensor:
    with probing(small_model().to(images.dtype), images, TARGETS, chunk=chunk) as probe:
        found = compared_inputs(probe, torch.arange(COUNT))
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sides", [(64, 64), (6, 64), (1, 1)])
def test_images_of_64_pixels_stay_as_they_are(sides: tuple[int, int], dtype: torch.dtype) -> None:
    images = torch.randn(COUNT, 3, *sides, dtype=dtype)
    assert torch.equal(inputs_of(images), images)


@pytest.mark.parametrize(("sides", "small"), [((128, 192), (64, 64)), ((65, 8), (64, 8)), ((8, 100), (8, 64))])
def test_larger_images_are_averaged_down_to_64(sides: tuple[int, int], small: tuple[int, int]) -> None:
    images = torch.randn(COUNT, 3, *sides)
    found = inputs_of(images)
    assert torch.equal(found, adaptive_avg_pool2d(images, small))
    if sides == (128, 192):
        torch.testing.assert_close(found[:, :, 1, 2], images[:, :, 2:4, 6:9].mean(dim=(2, 3)))


def test_the_values_of_large_images_are_those_of_small_ones() -> None:
    pictures = networks.images(COUNT).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)  # of 64 pixels
    larger = pictures.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    keys = ("difficulty/neighbour", "difficulty/class_mean", "input_difficulty/")
    for measure in ("difficulty", "input_difficulty"):
        model = small_model()
        one, other = (measured(measure, model, images, TARGETS, chunk=9) for images in (pictures, larger))
        found = [{key: value for key, value in each.values.items() if key.startswith(keys)} for each in (one, other)]
        assert found[0] == pytest.approx(found[1])
        assert found[0]


def test_of_many_samples_the_same_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_samples, "MOST_SAMPLES", 20)
    images = networks.images(COUNT)
    draws = []
    for seed in (0, 0, 1):
        with probing(small_model(), images, TARGETS, chunk=7, seed=seed) as probe:
            samples = compared(probe)
            assert len(samples.rows) == len(samples.rows.unique()) == 20
            assert torch.equal(samples.targets, TARGETS[samples.rows])
            assert torch.equal(compared_inputs(probe, samples.rows), images[samples.rows])
            assert torch.equal(samples.of(images), images[samples.rows])
            draws.append(samples.rows.tolist())
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] == sorted(draws[0])
    for measure in ("difficulty", "input_difficulty", "representation", "kernel_difficulty"):
        model = small_model()
        more = {"seed": 1, "train_samples": COUNT, "initial_state": copy_state(model)}
        found = measured(measure, model, images, TARGETS, **more)
        chosen = torch.tensor(draws[2])
        expected = measured(measure, model, images[chosen], TARGETS[chosen], **more)
        assert found.values == pytest.approx(expected.values)
        assert found.values


def test_labels_above_the_number_of_samples_take_no_room() -> None:
    images = networks.images(COUNT)
    few = measured("difficulty", small_model(), images, TARGETS).values
    assert few
    with probing(small_model(), images, 10**12 * TARGETS) as probe:
        assert torch.equal(compared(probe).targets, TARGETS)
    assert measured("difficulty", small_model(), images, 10**12 * TARGETS).values == few


def test_without_room_they_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    images = networks.images(COUNT)
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 2**10)
    with probing(small_model(), images, TARGETS) as probe, pytest.raises(Undefined, match="all samples together"):
        compared_inputs(probe, torch.arange(COUNT))
    found = measured("difficulty", small_model(), images, TARGETS)
    assert set(found.absent) == {"difficulty/ridge_*", "difficulty/neighbour_*", "difficulty/class_mean_accuracy"}
    assert measured("input_difficulty", small_model(), images, TARGETS).values == {}


def test_filters_of_many_channels_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.time.A_SECOND", 1e6)
    found = measured("input_difficulty", small_model(), networks.images(COUNT), TARGETS)
    assert set(found.values) == {"input_difficulty/ridge_accuracy"}
    for kind, patch in (("convolution", 3 * 25), ("patch", 3 * 36)):
        reason = found.absent[f"input_difficulty/{kind}_*"]
        assert reason.startswith(f"filters of {patch} numbers on {COUNT} images would take")
        assert reason.endswith("minutes of one core; use fewer samples")


def test_too_few_samples_are_refused() -> None:
    def refusing(probe: Probe) -> None:
        with pytest.raises(Undefined, match="30 samples of 15 classes are too few"):
            compared(probe)

    with probing(small_model(), networks.images(COUNT), torch.arange(COUNT) % 15) as probe:
        refusing(probe)
