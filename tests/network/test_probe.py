from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.probes import probing, read

TARGETS = torch.arange(20) % networks.CLASSES


def test_other_weights_are_bound_for_one_call_only() -> None:
    model, twin = networks.made(networks.cnn_with_batch_norm), networks.made(networks.cnn_with_batch_norm, seed=1)
    images = networks.images(20)
    with probing(model, images, TARGETS) as probe, torch.no_grad():
        content = probe.batches[0].content
        own = probe.logits_on(content, 20)
        torch.testing.assert_close(probe.logits_on(content, 20, copy_state(twin)), twin.eval()(images))
        assert torch.equal(probe.logits_on(content, 20), own)
    assert all(torch.equal(a, b) for a, b in zip(own, model.eval()(images), strict=True))


def test_a_copied_state_does_not_follow_the_model() -> None:
    model = networks.made(networks.cnn_with_batch_norm)
    state = copy_state(model)
    assert set(state) == {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].running_mean.zero_()
    assert bool(state["0.weight"].any())
    assert bool(state["1.running_mean"].any())
    assert not any(value.requires_grad for value in state.values())


def test_targets_and_inputs_are_joined_over_batches() -> None:
    images = networks.images(20)
    probe = Probe(networks.mlp(), read(images, TARGETS, chunk=7), Layout((), ()))
    assert torch.equal(probe.targets, TARGETS)
    assert probe.inputs is not None
    assert torch.equal(probe.inputs, images)


def test_inputs_of_several_shapes_or_integers_are_none() -> None:
    images = networks.images(20)
    mixed = (*read(images, TARGETS), *read(images[:, :, :4], TARGETS))
    assert Probe(networks.mlp(), mixed, Layout((), ())).inputs is None
    assert Probe(networks.Tokens(), read(networks.token_ids(20), TARGETS), Layout((), ())).inputs is None


@pytest.mark.parametrize("chunk", [1, 6, 20])
def test_accuracy_on_other_inputs_keeps_their_order(chunk: int) -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(20)
    others = networks.images(20, seed=5)
    targets = networks.mostly_right_targets(model, others)
    with probing(model, images, TARGETS, chunk=chunk) as probe:
        assert probe.accuracy_on(others, targets) == pytest.approx(0.8)


def test_a_shared_quantity_is_computed_once() -> None:
    computed = []

    def quantity(probe: Probe) -> int:
        computed.append(probe)
        return 7

    with probing(networks.made(networks.mlp), networks.images(20), TARGETS) as probe:
        assert probe.cached(quantity) == probe.cached(quantity) == 7
    assert len(computed) == 1


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_logits_are_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    model = networks.made(networks.mlp).to(dtype)
    with probing(model, networks.images(20).to(dtype), TARGETS) as probe:
        assert probe.logits_on(probe.batches[0].content, 20).dtype == expected


def test_taps_remove_their_hooks_after_an_error() -> None:
    model = networks.made(networks.ResNet)

    def interrupted() -> None:
        with probing(model, networks.images(20), TARGETS) as probe, probe.tapped():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_tap_starts_the_graph_where_none_arrives() -> None:
    model = networks.made(networks.Tokens).requires_grad_(False)
    with probing(model, networks.token_ids(20), TARGETS) as probe, probe.tapped() as caught:
        logits = probe.logits_on(probe.batches[0].content, 20)
    (gradient,) = torch.autograd.grad(logits.sum(), [caught["h3"]])
    torch.testing.assert_close(gradient, model.head.weight.sum(0).expand(20, -1))


def test_an_inplace_follower_on_a_tap_that_starts_the_graph_is_harmless() -> None:
    model = nn.Sequential(
        nn.Embedding(networks.VOCABULARY, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, networks.CLASSES)
    ).requires_grad_(False)
    with probing(model, networks.token_ids(20), TARGETS, layers=["0"]) as probe, probe.tapped() as caught:
        probe.logits_on(probe.batches[0].content, 20)
    assert bool((caught["h1"] < 0).any())
    assert caught["h1"].requires_grad
