"""What every measure in the table keeps to, on networks of several kinds; a new one is covered by its table line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import MeasureError
from lightning_gengap.measures import MEASURED, MEASURES, Measure, compute, get_measure
from lightning_gengap.measures.derived import INGREDIENTS, derived
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.probes import probing

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
EVERY = MEASURES
# Those on request are taken on fewer networks; the dear ones among them on two, and on fewer samples.
ON_REQUEST_NETWORKS = ("mlp", "cnn_with_batch_norm", "VisionTransformer", "Tokens")
DEAR, FEW = 30.0, 16


def networks_for(name: str) -> Sequence[str]:
    if EVERY[name].by_default:
        return list(NETWORKS)
    return ON_REQUEST_NETWORKS[:2] if EVERY[name].forwards >= DEAR else ON_REQUEST_NETWORKS


every_measure = pytest.mark.parametrize("name", EVERY)
every_pair = pytest.mark.parametrize(
    ("name", "network"), [(name, network) for name in EVERY for network in networks_for(name)]
)


def task(network: str, name: str = "") -> tuple[nn.Module, Tensor, Tensor]:
    model = networks.made(NETWORKS[network])
    count = FEW if name in EVERY and EVERY[name].forwards >= DEAR else COUNT
    inputs = networks.token_ids(count) if network == "Tokens" else networks.images(count)
    return model, inputs, networks.mostly_right_targets(model, inputs)


@contextmanager
def probed(model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Iterator[Probe]:
    """A probe whose initial weights are others than the present ones."""
    generator = torch.Generator().manual_seed(3)
    initial = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator).to(value).abs()
        for name, value in copy_state(model).items()
        if value.is_floating_point()
    }
    with probing(model, inputs, targets, initial_state=initial, train_samples=COUNT, **more) as probe:
        yield probe


def measured(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Mapping[str, float]:
    with probed(model, inputs, targets, **more) as probe:
        return compute(probe, [name]).values


@cache
def first_measurement(name: str, network: str) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """Values and notes of the plainest measurement; several tests compare with it."""
    with probed(*task(network, name)) as probe:
        computed = compute(probe, [name])
        absences = tuple(f"{key} is absent: {why}" for key, why in computed.absent.get(name, {}).items())
        return computed.values, (*absences, *probe.notes)


@every_pair
def test_values_are_finite_floats_with_declared_keys_and_ranges(name: str, network: str) -> None:
    values, notes = first_measurement(name, network)
    for key, value in values.items():
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert MEASURED[key].measure == name
        assert MEASURED[key].low <= value <= MEASURED[key].high
    assert all(note.count("\n") == 0 and "absent" in note for note in notes)
    assert len(notes) == len(set(notes))
    assert values or notes, "what is absent has a note"


@every_measure
def test_every_declared_key_is_given_for_an_image_network(name: str) -> None:
    declared = {key for key, entry in MEASURED.items() if entry.measure == name}
    values: dict[str, float] = {}
    for network in ("mlp", "cnn_with_batch_norm"):
        model, inputs, targets = task(network)
        for labels in (targets, model.eval()(inputs).argmax(1)):  # some keys need every margin positive
            if not declared <= values.keys():
                values |= measured(name, model, inputs, labels)
                others = {ingredient: 0.5 for names in INGREDIENTS.values() for ingredient in names}
                values |= {key: value for key, value in derived(others | values).items() if key in declared}
    assert set(values) == declared


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
        values = measured(name, model, networks.images(count), torch.arange(count) % 4)
        assert values[f"{where}/samples"] == min(count, most)
        assert values[f"{where}/parameters"] == 28


def test_leave_one_out_gives_the_number_of_its_samples() -> None:
    values = measured("leave_one_out", networks.made(few_weights), networks.images(COUNT), torch.arange(COUNT) % 4)
    assert values["loo/last_layer/samples"] == COUNT


def fingerprint(model: nn.Module, inputs: Tensor) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers(), inputs]
    gradients = [parameter.grad for parameter in model.parameters()]
    return [
        [(id(tensor), tensor.requires_grad, tensor.detach().tolist()) for tensor in tensors],
        [(id(gradient), gradient.tolist()) for gradient in gradients if gradient is not None],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()],
    ]


@every_pair
def test_model_data_and_random_streams_are_untouched(name: str, network: str) -> None:
    model, inputs, targets = task(network, name)
    model.train()
    model(inputs).sum().backward()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = fingerprint(model, inputs)
    with probed(model, inputs, targets) as probe:
        EVERY[name].function(probe)
        after = fingerprint(model, inputs)
        assert not any(module.training for module in model.modules())
    assert after == before  # by the measure itself, inside the guard
    assert [module.training for module in model.modules()] == modes


@every_pair
def test_the_same_seed_gives_the_same_values(name: str, network: str) -> None:
    first, _ = first_measurement(name, network)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert measured(name, *task(network, name)) == first


def in_float64(name: str, network: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, inputs, targets = task(network, name)
    return model.double(), inputs.double() if inputs.is_floating_point() else inputs, targets


@every_pair
def test_the_size_of_the_chunks_does_not_matter(name: str, network: str) -> None:
    model, inputs, targets = in_float64(name, network)
    whole = measured(name, model, inputs, targets)
    assert measured(name, model, inputs, targets, chunk=7) == pytest.approx(whole, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("network", ["mlp", "Tokens"])
@every_measure
def test_the_order_of_the_samples_matters_only_to_what_is_drawn_by_place(name: str, network: str) -> None:
    model, inputs, targets = in_float64(name, network)
    whole = measured(name, model, inputs, targets)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    shuffled = measured(name, model, inputs[order], targets[order], chunk=7)
    if EVERY[name].drawn_by_place:
        assert shuffled.keys() == whole.keys()
        if network == "mlp":
            assert shuffled != pytest.approx(whole, rel=1e-6, abs=1e-6)
    else:
        assert shuffled == pytest.approx(whole, rel=1e-6, abs=1e-6)


@every_pair
def test_a_second_measurement_agrees_with_the_first(name: str, network: str) -> None:
    model, inputs, targets = task(network, name)
    memory: dict[str, Tensor] = {}
    values = [measured(name, model, inputs, targets, memory=memory) for _ in range(2)]
    assert values[1] == pytest.approx(values[0], rel=2e-2, abs=2e-2)
    assert all(isinstance(tensor, Tensor) and tensor.device.type == "cpu" for tensor in memory.values())


@every_measure
def test_measures_say_what_they_compute_and_cost(name: str) -> None:
    entry = get_measure(name)
    assert entry is EVERY[name]
    text = entry.function.__doc__ or ""
    assert all(word in text for word in ("Key", "Cost")), "the docstring names keys and cost"


def test_compute_drops_what_is_undefined_and_joins_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        MEASURES, "odd", Measure(lambda probe: {"a": math.nan, "b": math.inf, "c": 1.0}, {}, forwards=0)
    )
    with probed(*task("mlp")) as probe:
        values = compute(probe, ["odd", "fit"]).values
    assert set(values) == {"c", "train_accuracy", "train_loss", "train_confidence"}


def test_an_unknown_measure_lists_the_known() -> None:
    with pytest.raises(MeasureError, match=f"got 'margns'; expected one of {', '.join(MEASURES)}"):
        get_measure("margns")
