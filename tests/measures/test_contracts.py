"""What every measure of the registry keeps to, on networks of several kinds; a new one is covered by its row."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures import MEASURED, MEASURES, get_measure
from lightning_gengap.measures.values import Histogram, Spectrum
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import Measured, fingerprint, measured, probing, taken

COUNT = 40
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        networks.mlp,
        networks.cnn_with_batch_norm,
        networks.VGG,
        networks.ResNet,
        networks.VisionTransformer,
        networks.Recurrent,
        networks.Tokens,
    )
}
# Measures on request are taken on fewer networks; the expensive ones on two, and on fewer samples.
ON_REQUEST_NETWORKS = ("mlp", "cnn_with_batch_norm", "ResNet", "VisionTransformer", "Tokens")
EXPENSIVE, FEW = 30.0, 16
KINDS = {"histogram": Histogram, "spectrum": Spectrum}


def networks_for(name: str) -> Sequence[str]:
    if MEASURES[name].by_default:
        return list(NETWORKS)
    return ON_REQUEST_NETWORKS[:2] if MEASURES[name].forwards >= EXPENSIVE else ON_REQUEST_NETWORKS


every_measure = pytest.mark.parametrize("name", MEASURES)
every_pair = pytest.mark.parametrize(
    ("name", "network"), [(name, network) for name in MEASURES for network in networks_for(name)]
)


def task(network: str, name: str = "") -> tuple[nn.Module, Tensor, Tensor]:
    model = networks.made(NETWORKS[network])
    count = FEW if name in MEASURES and MEASURES[name].forwards >= EXPENSIVE else COUNT
    inputs = networks.token_ids(count) if network == "Tokens" else networks.images(count)
    return model, inputs, networks.mostly_right_targets(model, inputs)


def other_weights(model: nn.Module) -> dict[str, Tensor]:
    """Initial weights that are not the present ones."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator).to(value).abs()
        for name, value in copy_state(model).items()
        if value.is_floating_point()
    }


def outcome(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Measured:
    more |= {"initial_state": other_weights(model), "train_samples": COUNT, "named": frozenset({name})}
    return measured(name, model, inputs, targets, **more)


@cache
def first_measurement(name: str, network: str) -> Measured:
    """The plainest measurement; several tests compare with it."""
    return outcome(name, *task(network, name))


@every_pair
def test_values_are_finite_floats_in_the_declared_range(name: str, network: str) -> None:
    for key, value in first_measurement(name, network).values.items():
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert MEASURED[key].measure == name
        assert MEASURED[key].low <= value <= MEASURED[key].high


@every_pair
def test_what_is_returned_is_declared_and_what_is_declared_is_returned_or_said_to_be_absent(
    name: str, network: str
) -> None:
    values, absent, figures, remarks = first_measurement(name, network)
    declared = MEASURES[name].keys
    assert values.keys() <= {key for key in declared if declared[key].kind == "scalar"}
    assert all(isinstance(figure, KINDS[declared[key].kind]) for key, figure in figures.items())
    for pattern in absent:
        assert any(fnmatchcase(key, pattern) for key in declared), pattern
    if values or figures:
        silent = declared.keys() - values.keys() - figures.keys()
        # A figure is the distribution of the numbers below it: where these are said to be absent, so is the figure.
        assert not [key for key in silent if not any(fnmatchcase(k, p) for k in (key, f"{key}/") for p in absent)]
    else:
        assert absent, "what is absent has a reason"
    for text in (*absent.values(), *remarks):
        assert text
        assert "\n" not in text
    assert len(remarks) == len(set(remarks))


@every_measure
def test_every_declared_key_is_given_for_some_network(name: str) -> None:
    declared = MEASURES[name].keys
    given: set[str] = set()
    for network in ("mlp", "cnn_with_batch_norm", "ResNet", "Tokens", "vectors"):
        model, inputs, targets = task("mlp" if network == "vectors" else network)
        inputs = inputs.flatten(1) if network == "vectors" else inputs
        for labels in (targets, model.eval()(inputs).argmax(1)):  # some keys need every margin positive
            if not given >= declared.keys():
                values, _, figures, _ = outcome(name, model, inputs, labels)
                given |= values.keys() | figures.keys()
    assert given == declared.keys()


def few_weights() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))


SIZED = {  # where a curvature's samples and parameters stand, and the most samples that it takes
    "soft_rank": ("curvature", 512),
    "full_soft_rank": ("curvature/full", 520),
    "tic": ("curvature/tic", 512),
    "diagonal_curvature": ("curvature/diagonal", 512),
    "kronecker_curvature": ("curvature/kronecker", 512),
    "hessian": ("curvature/hessian", 512),
}


@pytest.mark.parametrize("name", SIZED)
def test_every_curvature_gives_the_numbers_of_its_samples_and_parameters(name: str) -> None:
    where, most = SIZED[name]
    model = networks.made(few_weights)
    model[2].bias.requires_grad_(False)
    for count in (40, 520):
        values = outcome(name, model, networks.images(count), torch.arange(count) % 4).values
        assert values[f"{where}/samples"] == min(count, most)
        assert values[f"{where}/parameters"] == 28


def test_leave_one_out_gives_the_number_of_its_samples() -> None:
    values = outcome(
        "leave_one_out", networks.made(few_weights), networks.images(COUNT), torch.arange(COUNT) % 4
    ).values
    assert values["loo/last_layer/samples"] == COUNT


@every_pair
def test_model_data_and_random_streams_are_untouched(name: str, network: str) -> None:
    model, inputs, targets = task(network, name)
    model.train()
    model(inputs).sum().backward()
    next(model.children()).eval()
    outside = fingerprint(model, inputs)
    with probing(model, inputs, targets, initial_state=other_weights(model), train_samples=COUNT) as probe:
        inside = fingerprint(model, inputs)
        assert not any(module.training for module in model.modules())
        taken(name, probe)
        assert fingerprint(model, inputs) == inside, "by the measure itself, inside the guard"
    assert fingerprint(model, inputs) == outside


@every_pair
def test_the_same_seed_gives_the_same_values(name: str, network: str) -> None:
    first = first_measurement(name, network).values
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert outcome(name, *task(network, name)).values == first


def in_float64(name: str, network: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, inputs, targets = task(network, name)
    return model.double(), inputs.double() if inputs.is_floating_point() else inputs, targets


@every_pair
def test_the_size_of_the_chunks_does_not_matter(name: str, network: str) -> None:
    model, inputs, targets = in_float64(name, network)
    whole = outcome(name, model, inputs, targets).values
    assert outcome(name, model, inputs, targets, chunk=7).values == pytest.approx(whole, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("network", ["mlp", "Tokens"])
@every_measure
def test_the_order_of_the_samples_matters_only_to_what_is_drawn_by_place(name: str, network: str) -> None:
    model, inputs, targets = in_float64(name, network)
    whole = outcome(name, model, inputs, targets).values
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    shuffled = outcome(name, model, inputs[order], targets[order], chunk=7).values
    if MEASURES[name].drawn_by_place:
        assert shuffled.keys() == whole.keys()
        if network == "mlp":
            assert shuffled != pytest.approx(whole, rel=1e-6, abs=1e-6)
    else:
        assert shuffled == pytest.approx(whole, rel=1e-6, abs=1e-6)


@every_pair
def test_a_second_measurement_agrees_with_the_first(name: str, network: str) -> None:
    model, inputs, targets = task(network, name)
    memory: dict[str, Tensor] = {}
    values = [outcome(name, model, inputs, targets, memory=memory).values for _ in range(2)]
    assert values[1] == pytest.approx(values[0], rel=2e-2, abs=2e-2)
    assert all(isinstance(tensor, Tensor) and tensor.device.type == "cpu" for tensor in memory.values())


@every_measure
def test_measures_say_what_they_compute_what_it_costs_and_who_found_it(name: str) -> None:
    text = get_measure(name).function.__doc__ or ""
    assert all(word in text.lower() for word in ("key", "cost")), "the docstring names keys and cost"
    assert "Reference" in text, "and a paper, or that there is none"
