"""What every measure in the table keeps to, on networks of several kinds; a new one is covered by its table line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derived import derived
from lightning_gengap.errors import MeasureError
from lightning_gengap.keys import MEASURED
from lightning_gengap.measures import MEASURES, Measure, compute, known
from lightning_gengap.probe import Probe, copy_state
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
# Which pairs, shifts and noise a sample gets is drawn by its place, so that the draws are the same at every
# measurement of a run: another order of the samples is another draw.
DRAWN_BY_PLACE = {"perturbation"}
every_measure = pytest.mark.parametrize("name", MEASURES)
every_network = pytest.mark.parametrize("network", NETWORKS)


def task(network: str) -> tuple[nn.Module, Tensor, Tensor]:
    model = networks.made(NETWORKS[network])
    inputs = networks.token_ids(COUNT) if network == "Tokens" else networks.images(COUNT)
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
        return MEASURES[name].function(probe)


@every_measure
@every_network
def test_values_are_finite_floats_with_declared_keys_and_ranges(name: str, network: str) -> None:
    with probed(*task(network)) as probe:
        values = MEASURES[name].function(probe)
        notes = list(probe.notes)
    for key, value in values.items():
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert MEASURED[key].measure == name
        assert MEASURED[key].low <= value <= MEASURED[key].high
    assert all(note.count("\n") == 0 and "absent" in note for note in notes)
    assert len(notes) == len(set(notes))


@every_measure
def test_every_declared_key_is_given_for_an_image_network(name: str) -> None:
    values = dict(measured(name, *task("cnn_with_batch_norm")))
    values |= derived(values | {"train_accuracy": 1.0})
    assert set(values) == {key for key, declared in MEASURED.items() if declared.measure == name}


def fingerprint(model: nn.Module, inputs: Tensor) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers(), inputs]
    gradients = [parameter.grad for parameter in model.parameters()]
    return [
        [(id(tensor), tensor.requires_grad, tensor.detach().tolist()) for tensor in tensors],
        [(id(gradient), gradient.tolist()) for gradient in gradients if gradient is not None],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()],
    ]


@every_measure
@every_network
def test_model_data_and_random_streams_are_untouched(name: str, network: str) -> None:
    model, inputs, targets = task(network)
    model.train()
    model(inputs).sum().backward()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = fingerprint(model, inputs)
    with probed(model, inputs, targets) as probe:
        MEASURES[name].function(probe)
        after = fingerprint(model, inputs)
        assert not any(module.training for module in model.modules())
    assert after == before  # by the measure itself, inside the guard
    assert [module.training for module in model.modules()] == modes


@every_measure
@every_network
def test_the_same_seed_gives_the_same_values(name: str, network: str) -> None:
    first = measured(name, *task(network), seed=4)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert measured(name, *task(network), seed=4) == first


@every_measure
@every_network
def test_the_size_and_order_of_the_chunks_do_not_matter(name: str, network: str) -> None:
    model, inputs, targets = task(network)
    model, inputs = model.double(), inputs.double() if inputs.is_floating_point() else inputs
    whole = measured(name, model, inputs, targets)
    assert measured(name, model, inputs, targets, chunk=7) == pytest.approx(whole, rel=1e-6, abs=1e-6)
    if name not in DRAWN_BY_PLACE:
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
        shuffled = measured(name, model, inputs[order], targets[order], chunk=7)
        assert shuffled == pytest.approx(whole, rel=1e-6, abs=1e-6)


@every_measure
@every_network
def test_a_second_measurement_agrees_with_the_first(name: str, network: str) -> None:
    model, inputs, targets = task(network)
    memory: dict[str, Tensor] = {}
    values = [measured(name, model, inputs, targets, memory=memory) for _ in range(2)]
    assert values[1] == pytest.approx(values[0], rel=2e-2, abs=2e-2)
    assert all(isinstance(tensor, Tensor) and tensor.device.type == "cpu" for tensor in memory.values())


@every_measure
def test_measures_say_what_they_compute_and_cost(name: str) -> None:
    entry = known(name)
    assert entry is MEASURES[name]
    assert entry.forwards >= 0
    text = entry.function.__doc__ or ""
    assert all(word in text for word in ("Key", "Cost")), "the docstring names keys and cost"


def test_compute_drops_what_is_undefined_and_joins_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURES, "odd", Measure(lambda probe: {"a": math.nan, "b": math.inf, "c": 1.0}, forwards=0))
    with probed(*task("mlp")) as probe:
        values = compute(probe, ["odd", "fit"])
    assert set(values) == {"c", "train_accuracy", "train_loss", "train_confidence"}


def test_an_unknown_measure_lists_the_known() -> None:
    with pytest.raises(MeasureError, match=f"got 'margns'; expected one of {', '.join(MEASURES)}"):
        known("margns")
