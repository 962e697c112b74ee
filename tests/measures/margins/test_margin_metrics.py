from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin, OutputMargin, logit_gap, tukey_statistics
from tests import oracles
from tests.pretended_device import PretendedDevice


def filled(distances: Tensor, activations: Tensor, *sizes: int) -> NormalizedMargin:
    metric = NormalizedMargin()
    for distance, activation in zip(distances.split(sizes), activations.split(sizes), strict=True):
        metric.update(distance, activation)
    return metric


@pytest.fixture
def stream() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, generator=generator).double(), torch.randn(40, 2, 3, generator=generator).double()


@pytest.mark.parametrize("sizes", [(40,), (1, 39), (13, 13, 14), (1,) * 40])
def test_any_split_into_updates_gives_one_value(stream: tuple[Tensor, Tensor], sizes: tuple[int, ...]) -> None:
    distances, activations = stream
    values = {name: float(value) for name, value in filled(*stream, *sizes).compute().items()}
    variation = np.sqrt(activations.flatten(1).numpy().var(axis=0).sum())
    expected = oracles.tukey([d / variation for d in distances.tolist() if d > 0])
    assert values == pytest.approx(expected | {"total_variation": variation}, rel=1e-12)


def test_the_accumulator_resets_and_pickles(stream: tuple[Tensor, Tensor]) -> None:
    metric = filled(*stream, 40)
    expected = {name: float(value) for name, value in metric.compute().items()}
    for twin in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert {name: float(value) for name, value in twin.compute().items()} == expected
    metric.update(stream[0] + 3, stream[1] * 2)
    metric.reset()
    metric.update(*stream)
    assert {name: float(value) for name, value in metric.compute().items()} == expected


def test_gathered_states_give_the_margins_of_all_ranks(stream: tuple[Tensor, Tensor]) -> None:
    metric = filled(*stream, 25, 15)
    expected = metric.margins()
    metric.distances = torch.cat(metric.distances)  # as torchmetrics leaves them after a reduction by concatenation
    assert torch.equal(metric.margins(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_inputs_are_accumulated_in_double(stream: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    distances, activations = (tensor.to(dtype) for tensor in stream)
    found = filled(distances, activations, 20, 20).compute()
    exact = filled(distances.double(), activations.double(), 40).compute()
    assert all(value.dtype == torch.float64 for value in found.values())
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mean", [0, 1e2, 1e4, 1e6])
def test_total_variation_survives_a_huge_mean(mean: float) -> None:
    activations = torch.randn(300, 20, generator=torch.Generator().manual_seed(0)) + mean
    expected = np.sqrt(activations.double().numpy().var(axis=0).sum())
    metric = filled(torch.ones(300), activations, 128, 128, 44)
    assert float(metric.total_variation()) == pytest.approx(expected, rel=1e-6 if mean < 1e6 else 1e-3)


@pytest.mark.parametrize(("correct", "present"), [(9, False), (10, True)])
def test_fewer_than_ten_correct_samples_have_no_statistics(correct: int, present: bool) -> None:
    metric = NormalizedMargin()
    metric.update(torch.cat([torch.linspace(1, 2, correct), torch.full((30,), -1.0)]), torch.randn(correct + 30, 3))
    assert ("median" in metric.compute()) == present
    assert "total_variation" in metric.compute()


def test_undefined_distances_are_dropped() -> None:
    undefined = torch.tensor([torch.inf, torch.nan, -torch.inf]).repeat(10)
    distances, activations = torch.cat([torch.linspace(1, 2, 20), undefined]), torch.randn(50, 3)
    values = filled(distances, activations, 50).compute()
    assert float(values["median"] * values["total_variation"]) == pytest.approx(1.5)
    assert all(bool(torch.isfinite(value)) for value in values.values())


@pytest.mark.parametrize(
    "values",
    [
        *((1.5 * torch.randn(n, generator=torch.Generator().manual_seed(n))).exp().tolist() for n in (1, 2, 3, 10, 41)),
        [0.0, 10.0, 10.0, 10.0],  # every datum within reach lies above the lower quartile
        [10.0, 10.0, 10.0, 20.0],
    ],
    ids=len,
)
def test_tukey_statistics_are_monotone_and_equal_loops(values: list[float]) -> None:
    found = {name: float(value) for name, value in tukey_statistics(torch.tensor(values).double()).items()}
    assert found == pytest.approx(oracles.tukey(values), rel=1e-6)
    assert list(found.values()) == sorted(found.values())


def test_logit_gap_is_negative_for_the_wrong_class_and_zero_in_a_tie() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [2.0, 2.0, 0.0]])
    assert logit_gap(logits, torch.tensor([0, 1, 0])).tolist() == [1.0, -2.0, 0.0]


def test_output_margins_are_quantiles_of_the_logit_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 4, generator=generator), torch.randint(4, (50,), generator=generator)
    metric = OutputMargin()
    for part, labels in zip(logits.split(20), targets.split(20), strict=True):
        metric.update(part, labels)
    gaps = [
        row[y] - max(value for c, value in enumerate(row) if c != y)
        for row, y in zip(logits.double().tolist(), targets.tolist(), strict=True)
    ]
    expected = {name: oracles.quantile(gaps, level) for name, level in [("q05", 0.05), ("q10", 0.1), ("median", 0.5)]}
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(
        expected | {"mean": float(np.mean(gaps))}, rel=1e-9
    )


def test_the_accumulators_run_on_a_device_without_float64(stream: tuple[Tensor, Tensor]) -> None:
    distances, activations = (part.float() for part in stream)
    logits, targets = activations[:, 0], torch.arange(40) % 3
    with PretendedDevice() as device:
        margin, output = NormalizedMargin().to(device.place), OutputMargin().to(device.place)
        margin.update(distances.to(device.place), activations.to(device.place))
        output.update(logits.to(device.place), targets.to(device.place))
        found = {**margin.compute(), **output.compute()}
        values = {name: float(value) for name, value in found.items()}
    on_cpu = OutputMargin()
    on_cpu.update(logits, targets)
    expected = {**filled(distances, activations, 40).compute(), **on_cpu.compute()}
    assert values == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)
