"""What the measures of norms, noise, calibration and class structure keep to, on networks of several kinds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.difficulty.separability import separability
from lightning_gengap.measures.margins.bartlett import bartlett
from lightning_gengap.measures.margins.calibration import calibration
from lightning_gengap.measures.margins.k_variance import k_variance
from lightning_gengap.measures.norms.complexity import complexity
from lightning_gengap.measures.norms.distance import distance
from lightning_gengap.measures.norms.norm_product import norm_product
from lightning_gengap.measures.norms.path_norm import path_norm
from lightning_gengap.measures.sharpness.adaptive_sharpness import adaptive_sharpness
from lightning_gengap.measures.sharpness.gradient_noise import gradient_noise
from lightning_gengap.measures.sharpness.pac_bayes import pac_bayes
from lightning_gengap.measures.sharpness.sharpness import sharpness
from lightning_gengap.measures.sharpness.worst_case import worst_case
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.probes import probing

COUNT = 24
FUNCTIONS = (
    *(path_norm, distance, bartlett, complexity, norm_product, calibration, k_variance, separability),
    *(gradient_noise, sharpness, adaptive_sharpness, pac_bayes, worst_case),
)
NETWORKS = (networks.cnn_with_batch_norm, networks.ResNet, networks.VisionTransformer, networks.Tokens)
every_measure = pytest.mark.parametrize("measure", FUNCTIONS, ids=lambda measure: measure.__name__)
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
Measure = Callable[[Probe], dict[str, float]]


def two_classes(network: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that separates its samples into two equal halves: last-layer biases at the median difference."""
    model = networks.made(network).double().eval()
    inputs = networks.token_ids(COUNT) if network is networks.Tokens else networks.images(COUNT).double()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight[2:] = 0
        head.bias[2:] = -100
        difference = model(inputs)[:, 0] - model(inputs)[:, 1]
        head.bias[0] -= difference.quantile(0.5)
        return model, inputs, model(inputs).argmax(1)


def measured(
    measure: Measure, model: nn.Module, inputs: Tensor, targets: Tensor, **more: object
) -> tuple[dict[str, float], list[str]]:
    initial = {
        name: value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)).to(value).abs()
        for name, value in copy_state(model).items()
        if value.is_floating_point()
    }
    with probing(model, inputs, targets, initial_state=initial, train_samples=COUNT, **more) as probe:
        return measure(probe), probe.notes


@every_measure
@every_network
def test_values_are_finite_declared_in_range_and_independent_of_the_chunks(
    measure: Measure, network: Callable[[], nn.Module]
) -> None:
    task = two_classes(network)
    values, notes = measured(measure, *task)
    for key, value in values.items():
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert MEASURED[key].measure == measure.__name__
        assert MEASURED[key].low <= value <= MEASURED[key].high
    assert all("absent" in note and "\n" not in note for note in notes)
    assert len(notes) == len(set(notes))
    assert measured(measure, *task, chunk=7)[0] == pytest.approx(values, rel=1e-6, abs=1e-6)


@every_measure
def test_every_declared_key_is_given_or_its_absence_said(measure: Measure) -> None:
    values, notes = measured(measure, *two_classes(networks.cnn_with_batch_norm))
    declared = {key for key, declared in MEASURED.items() if declared.measure == measure.__name__}
    assert set(values) <= declared
    absent = declared - set(values)
    assert all(
        any(key.rsplit("/", 1)[-1] in note or f"{measure.__name__}/*" in note for note in notes) for key in absent
    )
    assert len(values) >= len(declared) / 2


@every_measure
def test_the_model_is_untouched_and_a_second_measurement_agrees(measure: Measure) -> None:
    model, inputs, targets = two_classes(networks.cnn_with_batch_norm)
    tensors = [*model.parameters(), *model.buffers()]
    before = [(id(tensor), tensor.requires_grad, tensor.detach().clone()) for tensor in tensors]
    stream, memory = torch.get_rng_state(), dict[str, Tensor]()
    first, _ = measured(measure, model, inputs, targets, memory=memory)
    second, _ = measured(measure, model, inputs, targets, memory=memory)
    assert second == pytest.approx(first, rel=2e-2, abs=2e-2)
    assert torch.equal(torch.get_rng_state(), stream)
    after = [*model.parameters(), *model.buffers()]
    for tensor, (identity, requires_grad, value) in zip(after, before, strict=True):
        assert (id(tensor), tensor.requires_grad) == (identity, requires_grad)
        assert torch.equal(tensor, value)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(tensor.device.type == "cpu" for tensor in memory.values())


@every_measure
def test_the_docstring_names_keys_cost_and_reference(measure: Measure) -> None:
    assert all(word in (measure.__doc__ or "") for word in ("Keys", "Cost", "Reference", "arXiv"))
