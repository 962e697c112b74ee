from __future__ import annotations

import copy
import math
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_gengap import measure
from lightning_gengap.errors import BatchError, ConfigurationError, DataError, LayerError, LogitsError, MeasureError
from lightning_gengap.measures import MEASURED, MEASURES
from tests import networks

COUNT = 150  # more than one chunk


@pytest.fixture
def model() -> nn.Module:
    return networks.made(networks.cnn_with_batch_norm).train()


@pytest.fixture
def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    images = networks.images(COUNT)
    return images, networks.mostly_right_targets(model, images)


def test_every_form_of_data_gives_the_same_values(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, targets = data
    dataset = TensorDataset(images, targets)
    names = ["margin", "fit", "norm", "perturbation", "difficulty"]
    initial = copy.deepcopy(model.state_dict())
    expected = measure(model, [data], names, initial)
    forms: list[Any] = [
        dataset,
        DataLoader(dataset, batch_size=64),
        list(zip(images.split(40), targets.split(40), strict=True)),
        iter([{"image": images, "label": targets}]),
        ([x, y] for x, y in zip(images.split(77), targets.split(77), strict=True)),
    ]
    for form in forms:
        assert measure(model, form, names, initial) == pytest.approx(expected, rel=1e-4)


def test_the_keys_are_declared_and_the_values_in_range(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    values = measure(model, [data], initial_state=copy.deepcopy(model.state_dict()))
    always = {"", "fit", "margin", "norm", "perturbation", "difficulty"}
    expected = {key for key, declared in MEASURED.items() if declared.measure in always}
    of_a_run = {key for key in expected if key.startswith("speed/")} | {"progress", "trained_on_copies"}
    with_others = {"perturbation/excess_by_size"}  # needs input_difficulty too
    assert expected - of_a_run - with_others <= set(values) <= set(MEASURED)
    for key, value in values.items():
        assert isinstance(value, float)
        assert MEASURED[key].low <= value <= MEASURED[key].high
    assert values["probe_samples"] == values["train_samples"] == COUNT
    assert values["classes"] == networks.CLASSES
    assert values["classes_present"] == len(data[1].unique())


def test_untrained_difficulty_needs_initial_weights(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    initial = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    key = "difficulty/ridge_accuracy"
    with pytest.warns(UserWarning, match=r"difficulty/ridge_\*, .* is absent: there are no initial weights"):
        assert key not in measure(model, [data], ["difficulty"])
    now = measure(model, [data], ["difficulty"], copy.deepcopy(model.state_dict()))
    model_then = copy.deepcopy(model)
    model_then.load_state_dict(initial)
    then = measure(model_then, [data], ["difficulty"], initial)
    assert measure(model, [data], ["difficulty"], initial)[key] == then[key] != now[key]


def test_measures_can_be_chosen(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    values = measure(model, [data], ["fit"])
    assert set(values) == {
        *("train_accuracy", "train_loss", "train_confidence"),
        *("classes", "classes_present", "probe_samples", "train_samples"),
    }
    assert values["train_accuracy"] == pytest.approx(0.8)


class Detached(nn.Module):
    """Trained, but nothing asked of its outputs reaches a parameter."""

    def __init__(self, detach: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.detach = networks.mlp((8, 8)), detach

    def forward(self, images: Tensor) -> Tensor:
        return self.detach(self.body(images))


class WithoutGradients(Detached):
    """Its forward runs under no_grad."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


NOT_DIFFERENTIABLE: dict[str, Callable[[], nn.Module]] = {
    "frozen": lambda: networks.mlp((8, 8)).requires_grad_(False),
    "no_grad": lambda: WithoutGradients(lambda logits: logits),
    "detached": lambda: Detached(Tensor.detach),
}


@pytest.mark.parametrize("kind", NOT_DIFFERENTIABLE)
def test_nothing_of_what_was_asked_for_by_name_is_an_error(kind: str) -> None:
    model, images = networks.made(NOT_DIFFERENTIABLE[kind]), networks.images(40)
    data = [(images, torch.arange(40) % 4)]
    with pytest.raises(
        MeasureError, match=r"measure 'soft_rank': got no value \(curvature/\S+ is absent: .+; expected"
    ):
        measure(model, data, ["soft_rank"])
    with pytest.raises(
        MeasureError,
        match=r"got no value \(each of curvature/\*, curvature/tic\* is absent: ",
    ):
        measure(model, data, iter(["soft_rank", "tic"]))
    with pytest.warns(UserWarning, match="is absent"):
        values = measure(model, data, ["soft_rank", "fit"])
    assert "train_accuracy" in values
    assert not any(key.startswith("curvature/") for key in values)
    assert set(measure(model, data, [])) == {"classes", "classes_present", "probe_samples", "train_samples"}


@pytest.mark.parametrize("decay", [0, 1, 1e-12, np.float32(1e-3)], ids=repr)
def test_a_weight_decay_that_can_be_one_is_taken(decay: float) -> None:
    model, images = networks.made(lambda: networks.mlp((8, 8))), networks.images(40)
    values = measure(model, [(images, torch.arange(40) % 4)], ["soft_rank", "leave_one_out"], weight_decay=decay)
    assert values["curvature/lambda"] == pytest.approx(float(decay) or 1e-3)
    assert values["curvature/lambda_assumed"] == float(decay == 0)


def fingerprint(model: nn.Module) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    streams = [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return [
        *([id(tensor), tensor.detach().tolist()] for tensor in tensors),
        *([id(gradient), None if gradient is None else gradient.tolist()] for gradient in gradients),
        *streams,
        *hooks,
        *(module.training for module in model.modules()),
    ]


@pytest.mark.parametrize("form", ["batches", "dataset", "shuffled loader", "loader with a generator", "weighted"])
def test_model_and_random_streams_are_untouched(model: nn.Module, data: tuple[Tensor, Tensor], form: str) -> None:
    model(data[0]).sum().backward()
    model[1].eval()
    generator = torch.Generator().manual_seed(7)
    dataset = TensorDataset(*data)
    weighted = WeightedRandomSampler([1.0] * COUNT, COUNT, generator=generator)
    given: Any = {
        "batches": [data],
        "dataset": dataset,
        "shuffled loader": DataLoader(dataset, batch_size=32, shuffle=True),
        "loader with a generator": DataLoader(dataset, batch_size=32, shuffle=True, generator=generator),
        "weighted": DataLoader(dataset, batch_size=32, sampler=weighted),
    }[form]
    before, stream = fingerprint(model), generator.get_state()
    measure(model, given, initial_state=copy.deepcopy(model.state_dict()))
    assert fingerprint(model) == before
    assert torch.equal(generator.get_state(), stream)


def test_layers_forward_and_target_can_be_given(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, targets = data
    expected = measure(model, [data], ["margin", "norm"], layers=["1", "4", "7"])
    found = measure(
        nn.ModuleDict({"net": model}),
        [(targets[:, None] + 10, images, "extra")],
        ["margin", "norm"],
        layers=["net.1", "net.4", "net.7"],
        forward=lambda module, batch: {"logits": module["net"](batch[1])},
        target=lambda batch: batch[0][:, 0] - 10,
    )
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factory", [networks.mlp, networks.ResNet, networks.Reused, networks.FunctionalStages])
def test_all_layers_are_measured(factory: Callable[[], nn.Module]) -> None:
    model, images = networks.made(factory), networks.images(40)
    values = measure(model, [(images, networks.mostly_right_targets(model, images))], ["margin"])
    assert {key.split("/")[1] for key in values if key.endswith("/q1")} == {"input", "h1", "h2", "h3"}


def test_what_is_undefined_is_absent_with_a_warning() -> None:
    model, images = networks.made(networks.VisionTransformer), networks.images(40)
    targets = networks.mostly_right_targets(model, images)
    with pytest.warns(UserWarning, match=r"norm/\* is absent: VisionTransformer has parameters outside its layers"):
        values = measure(model, [(images, targets)], ["margin", "norm"])
    assert not any(key.startswith("norm/") for key in values)
    assert "margin/h3/median" in values


def test_token_networks_are_measured() -> None:
    model, ids = networks.made(networks.Tokens), networks.token_ids(40)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        values = measure(model, [(ids, networks.mostly_right_targets(model, ids))], ["margin", "fit"])
    assert {str(warning.message).split(":")[0] for warning in said} == {
        "margin/input* is absent",
        "margin/h2* is absent",
    }
    assert {key.split("/")[1] for key in values if key.endswith("/median")} == {"h1", "h3", "output"}


@pytest.mark.parametrize("inside", [False, True], ids=["made in inference mode", "called in inference mode"])
def test_inference_mode_does_not_matter(model: nn.Module, data: tuple[Tensor, Tensor], inside: bool) -> None:
    expected = measure(model, [data], ["margin"])
    with torch.inference_mode():
        inference = (data[0].clone(), data[1].clone())
        if inside:
            assert measure(model, TensorDataset(*data), ["margin"]) == pytest.approx(expected, rel=1e-4)
    assert measure(model, [inference], ["margin"]) == pytest.approx(expected, rel=1e-4)


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 4)
        self.second.weight = self.first.weight
        self.alias = self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.alias(torch.relu(self.second(torch.relu(self.first(images.flatten(1))))))


def test_an_initial_state_may_name_shared_weights_twice() -> None:
    model, images = networks.made(Tied), networks.images(40)
    targets = torch.arange(40) % 4
    values = measure(model, [(images, targets)], ["difficulty"], copy.deepcopy(model.state_dict()))
    assert "difficulty/ridge_accuracy" in values


def pair(count: int = 20) -> tuple[Tensor, Tensor]:
    return networks.images(count), torch.arange(count) % networks.CLASSES


DECAYS = ["x", True, -1e-3, math.nan, math.inf, 1e-30, 1j, torch.tensor(0.1), [0.1]]
STATES: list[dict[str, Tensor]] = [{}, {"weight": torch.zeros(3)}, {"0.weight": torch.zeros(3)}]
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"data": []}, DataError, "expected at least one labelled sample"),
    ({"data": [(*pair(), pair()[0])]}, BatchError, "forward=lambda module, batch"),
    ({"measures": "fit"}, ConfigurationError, r"measures: got 'fit'; .* Pass \['fit'\]"),
    ({"measures": ["fit", "margins"]}, MeasureError, f"'margins'; expected one of {', '.join(MEASURES)}"),
    ({"layers": ["nowhere"]}, LayerError, "nowhere"),
    ({"forward": lambda module, batch: module(batch[0]).softmax(1)}, LogitsError, "softmax"),
    *(
        (
            {"measures": ["fit"], "weight_decay": decay},
            ConfigurationError,
            rf"weight_decay: got {re.escape(repr(decay))}; expected None, an optimizer, 0, or a finite number of at",
        )
        for decay in DECAYS
    ),
    *(({"initial_state": state}, ConfigurationError, r"first '0.weight'; .* model.state_dict\(\)") for state in STATES),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_what_cannot_be_measured_is_refused_and_nothing_is_changed(
    model: nn.Module, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = fingerprint(model)
    with pytest.raises(error, match=message):
        measure(model, **({"data": [pair()]} | arguments))
    assert fingerprint(model) == before
