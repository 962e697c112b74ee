from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding import FoldedNetwork, folded, folded_initial
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import measured, probing


def plain_and_folded(model: nn.Module, chunk: int | None = 5) -> tuple[Tensor, Tensor, FoldedNetwork]:
    images = networks.images(12).double()
    with probing(model.double(), images, torch.arange(12) % 4, chunk=chunk) as probe:
        network = probe.cached(folded)
        logits = torch.cat([logits for _, logits in probe.forwards(network.state)])
        return model(images).detach(), logits.detach(), network


def bare(affine: bool, bias: bool) -> nn.Sequential:
    """Batch norms with and without parameters, behind layers with and without a bias."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm, after = nn.BatchNorm2d(6, affine=affine), nn.BatchNorm1d(5, affine=affine)
        for module in (norm, after):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
        dense = nn.Linear(216, 5, bias=bias)
        convolution, head = nn.Conv2d(3, 6, 3, bias=bias), nn.Linear(5, 4)
        return nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), dense, after, nn.ReLU(), head)


FACTORIES = [networks.cnn_with_batch_norm, networks.VGG, networks.ResNet, networks.VisionTransformer]
MODELS = [
    *(networks.made(factory) for factory in FACTORIES),
    *(bare(affine, bias) for affine in (True, False) for bias in (True, False)),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_folded_network_has_the_same_logits_and_batch_norms_that_only_add(model: nn.Module) -> None:
    plain, logits, network = plain_and_folded(model)
    torch.testing.assert_close(logits, plain, rtol=1e-9, atol=1e-9)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            scale = (network.state[f"{name}.running_var"] + module.eps).rsqrt()
            torch.testing.assert_close(scale, torch.ones_like(scale), rtol=1e-9, atol=0)
            assert f"{name}.weight" not in network.free


def test_every_folded_layer_keeps_one_bias_to_perturb() -> None:
    _, _, network = plain_and_folded(networks.made(networks.cnn_with_batch_norm))
    layers = [f"{i}.weight" for i in (0, 3, 6)]
    assert set(network.free) == {*layers, "1.bias", "4.bias", "7.bias", "11.weight", "11.bias"}
    assert set(network.weights) == {*layers, "11.weight"}


def test_a_network_without_batch_norm_is_given_as_it_is() -> None:
    model = networks.made(networks.VisionTransformer)
    _, _, network = plain_and_folded(model)
    assert set(network.free) == {name for name, _ in model.named_parameters()}


def test_parameters_that_the_logits_ignore_are_left_out() -> None:
    model = networks.made(networks.mlp)
    model.register_module("teacher", nn.Linear(3, 3))
    model.forward = nn.Sequential(*list(model)[:-1]).forward  # type: ignore[method-assign]
    _, _, network = plain_and_folded(model)
    assert not any(name.startswith("teacher") for name in network.free)


def test_rescaling_before_batch_norm_gives_the_same_folded_network() -> None:
    model = networks.made(networks.cnn_with_batch_norm).double()
    _, _, before = plain_and_folded(model)
    measure_oracles.rescale_batch_norm(model[3], model[4], 3.0)
    _, _, after = plain_and_folded(model)
    for name in before.free:
        torch.testing.assert_close(after.state[name], before.state[name], rtol=1e-9, atol=1e-12)


def test_the_initial_network_is_folded_like_the_trained_one_and_nothing_is_written() -> None:
    model, initial = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    images = networks.images(8).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    identities = [id(value) for value in [*model.parameters(), *model.buffers()]]
    with probing(model, images, torch.arange(8) % 4, initial_state=copy_state(initial)) as probe:
        start = probe.cached(folded_initial)
        assert start is not None
        logits = probe.logits_on(probe.batches[0].content, 8, start.state)
    torch.testing.assert_close(logits, initial.eval()(images), rtol=1e-9, atol=1e-9)
    assert [id(value) for value in [*model.parameters(), *model.buffers()]] == identities
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Forked(nn.Module):
    """A convolution read by its batch norm and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.conv(images)
        return self.head((self.norm(seen) + seen).relu().mean(dim=(2, 3)))


class PreNorm(nn.Module):
    """A batch norm in front of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images).flatten(1))


class Constant(nn.Module):
    """Logits that depend on no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1)).detach()


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (Forked, "gives other logits"),
        (PreNorm, "does not directly follow"),
        (Constant, "depend on no parameter"),
    ],
)
def test_what_cannot_be_folded_is_refused(factory: Callable[[], nn.Module], reason: str) -> None:
    task = networks.made(factory), networks.images(8), torch.arange(8) % 4
    with probing(*task) as probe, pytest.raises(Undefined, match=reason):
        probe.cached(folded)


@pytest.mark.parametrize("name", ["distance", "path_norm", "sharpness", "gradient_noise", "bartlett", "k_variance"])
def test_a_compiled_network_has_the_values_of_its_twin(name: str) -> None:
    model, initial = (networks.made(pooled, seed).eval() for seed in (0, 1))
    images = networks.images(12)
    compiled = torch.compile(nn.Sequential(model), backend="eager")
    values = []
    for net, prefix in ((nn.Sequential(model), "0."), (compiled, "_orig_mod.0.")):
        state = {f"{prefix}{key}": value for key, value in copy_state(initial).items()}
        task = net, images, model(images).argmax(1)
        values.append(measured(name, *task, initial_state=state, train_samples=50).values)
    assert len(values[0]) >= 2
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
