"""What runs on a device computes there without float64, and seldom makes the CPU wait for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measurement import Measurement
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures import BY_DEFAULT, MEASURES
from lightning_gengap.network.probe import copy_state
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.samples.reader import Samples
from tests import networks
from tests.pretended_device import PretendedDevice
from tests.probes import read

COUNT, FEW = 40, 16  # the expensive measures are taken of a few samples
PREDICTOR = load_predictor("images_v3")
NETWORKS = {"batch norm": networks.cnn_with_batch_norm, "attention": networks.VisionTransformer}
NEEDS_FLOAT64 = {"path_norm"}  # it is absent without, and says so
WAITS_BY_BATCH = {"gradient_noise", "perturbed_margin", "kernel_difficulty"}  # for what is too large to wait there


@pytest.fixture(params=["mps", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[PretendedDevice]:
    """Without float64, whatever it is called."""
    with PretendedDevice(request.param) as device:
        yield device


def task(kind: str, *names: str) -> tuple[nn.Module, Tensor, Tensor]:
    count = FEW if any(MEASURES[name].forwards >= 30 for name in names) else COUNT
    model, images = networks.made(NETWORKS[kind]), networks.images(count)
    return model, images, networks.mostly_right_targets(model, images)


def measurer_of(
    model: nn.Module, images: Tensor, targets: Tensor, chunk: int, wanted: frozenset[str] | None
) -> Measurer:
    start = {name: value + 0.01 * value.abs() for name, value in copy_state(model).items()}
    samples = Samples(read(images, targets, chunk), train_samples=1000, augmented=False)
    return Measurer.of(model, samples, TrainingMemory(initial_state=start), wanted=wanted, raises=True)


def on_device(device: PretendedDevice, kind: str, chunk: int, *names: str) -> tuple[Measurement, Counter[str], int]:
    """A measurement, how often it waited, and how many tensors it moved to the device."""
    model, images, targets = task(kind, *names)
    measurer = measurer_of(model.to(device.place), images.to(device.place), targets.to(device.place), chunk, None)
    copied = device.copied
    with device.counted() as waited:
        found = measurer.measure(model, (), names)
    return found, waited, device.copied - copied


@cache
def on_cpu(kind: str, *names: str) -> Measurement:
    model, images, targets = task(kind, *names)
    return measurer_of(model, images, targets, 8, None).measure(model, (), names)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_default_measurement_needs_no_float64_and_gives_the_values_of_the_cpu(
    device: PretendedDevice, kind: str
) -> None:
    found, _, _ = on_device(device, kind, 20, *BY_DEFAULT)
    expected = on_cpu(kind, *BY_DEFAULT)
    assert found.values == pytest.approx(expected.values, rel=1e-5, abs=1e-9)
    assert found.absences == expected.absences


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_default_measurement_waits_as_often_for_many_batches_as_for_two(device: PretendedDevice, kind: str) -> None:
    _, few, copied = on_device(device, kind, 20, *BY_DEFAULT)
    _, many, copied_for_many = on_device(device, kind, 5, *BY_DEFAULT)
    assert many == few
    assert copied_for_many == copied


def test_what_the_predictor_of_images_reads_waits_seven_times_at_first_and_four_times_later(
    device: PretendedDevice,
) -> None:
    model, images, targets = task("batch norm")
    measurer = measurer_of(
        model.to(device.place), images.to(device.place), targets.to(device.place), 10, frozenset(PREDICTOR.needs)
    )
    waits = []
    for _ in range(2):
        with device.counted() as waited:
            measurer.measure(model, PREDICTOR.measures)
        waits.append(waited.total())
    assert waits == [7, 4]


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in BY_DEFAULT])
def test_every_measure_on_request_runs_on_a_device_without_float64(name: str) -> None:
    with PretendedDevice() as device:
        found, few, _ = on_device(device, "batch norm", 8, name)
        if name not in WAITS_BY_BATCH:
            assert on_device(device, "batch norm", 4, name)[1] == few
    expected = on_cpu("batch norm", name)
    if name in NEEDS_FLOAT64:
        assert [absence.reason for absence in found.absences if "no float64" in absence.reason]
        return
    assert found.values == pytest.approx(expected.values, rel=2e-4, abs=1e-7)
    assert found.absences == expected.absences


def test_the_pretended_device_refuses_what_a_device_refuses() -> None:
    with PretendedDevice() as device:
        here = torch.ones(3).to(device.place)
        assert here.device == device.place
        assert (2 * here).device == device.place
        assert here.cpu().device.type == "cpu"
        for widen in (Tensor.double, lambda t: t.to(torch.float64), lambda t: t.sum(dtype=torch.float64)):
            with pytest.raises(TypeError, match="no float64"):
                widen(here)
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(2, dtype=torch.float64, device=device.place)
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(2).double().to(device.place)
        with pytest.raises(RuntimeError, match="two devices"):
            here + torch.ones(3)
    with pytest.raises(RuntimeError):
        torch.zeros(1, device=device.place)


def test_the_pretended_device_counts_what_waits_for_it() -> None:
    with PretendedDevice() as device:
        here = torch.arange(3.0).to(device.place)
        with device.counted() as waited:
            here.square().sum()
        assert not waited
        with device.counted() as waited:
            float(here[1])
            here.cpu()
            here.tolist()
            bool((here > 1).any())
            torch.equal(here, here)
            here[here > 1]
        assert waited.total() == 6
        assert math.isclose(float(torch.ones(2)[0]), 1.0)
    assert device.synchronisations.total() == 6
