from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe, copy_state
from lightning_gengap.samples.batches import ProbeBatch
from tests import networks
from tests.probes import probing, read

COUNT = 20
TARGETS = torch.arange(COUNT) % networks.CLASSES


def probe_of(batches: tuple[ProbeBatch, ...]) -> Probe:
    return Probe(model=networks.mlp(), batches=batches, layout=Layout((), ()))


def forward_once(probe: Probe) -> Tensor:
    ((_, logits),) = probe.forwards()
    return logits


def test_other_weights_are_bound_for_one_call_only() -> None:
    model, twin = networks.made(networks.cnn_with_batch_norm), networks.made(networks.cnn_with_batch_norm, seed=1)
    images = networks.images(COUNT)
    with probing(model, images, TARGETS) as probe, torch.no_grad():
        own = forward_once(probe)
        ((_, others),) = probe.forwards(copy_state(twin))
        torch.testing.assert_close(others, twin.eval()(images))
        assert torch.equal(forward_once(probe), own)
    assert torch.equal(own, model.eval()(images))


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


def test_targets_are_joined_over_batches_and_inputs_are_no_copies() -> None:
    images = networks.images(COUNT)
    probe = probe_of(read(images, TARGETS, chunk=7))
    assert torch.equal(probe.targets, TARGETS)
    assert probe.inputs is not None
    assert torch.equal(torch.cat(probe.inputs), images)
    assert [part.data_ptr() for part in probe.inputs] == [batch.inputs.data_ptr() for batch in probe.batches]


def test_inputs_of_several_shapes_or_integers_are_none() -> None:
    images = networks.images(COUNT)
    assert probe_of((*read(images, TARGETS), *read(images[:, :, :4], TARGETS))).inputs is None
    assert probe_of(read(networks.token_ids(COUNT), TARGETS)).inputs is None


@pytest.mark.parametrize("chunk", [1, 6, COUNT])
def test_other_inputs_keep_their_order_over_batches(chunk: int) -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(COUNT)
    others = networks.images(COUNT, seed=5)
    targets = networks.mostly_right_targets(model, others)
    with probing(model, images, TARGETS, chunk=chunk) as probe:
        assert probe.accuracy_on(others, targets) == pytest.approx(0.8)
        pairs = list(probe.forwards(inputs=others))
        made = list(probe.forwards(inputs=others.split(chunk).__getitem__))
    assert torch.equal(torch.cat([batch.targets for batch, _ in pairs]), TARGETS)
    torch.testing.assert_close(torch.cat([logits for _, logits in pairs]), model(others))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(pairs, made, strict=True))


@pytest.mark.parametrize("defined", [True, False])
def test_a_shared_quantity_is_computed_once_until_it_is_forgotten(defined: bool) -> None:
    computed = []

    def quantity(probe: Probe) -> int:
        computed.append(probe)
        if not defined:
            raise Undefined("of a reason")
        return 7

    def request(probe: Probe) -> None:
        if defined:
            assert probe.cached(quantity) == 7
        else:
            with pytest.raises(Undefined, match="of a reason"):
                probe.cached(quantity)

    probe = probe_of(())
    for _ in range(2):
        request(probe)
    assert len(computed) == 1
    probe.forget()
    request(probe)
    assert len(computed) == 2


def test_modules_are_named_without_the_wrappers_of_compilation() -> None:
    wrapped = nn.Sequential()
    wrapped.add_module("_orig_mod", networks.mlp())
    with probing(networks.mlp(), networks.images(COUNT), TARGETS) as probe:
        assert probe.modules["1"] is probe.model[1]
    compiled = Probe(model=wrapped, batches=(), layout=Layout((), ()))
    assert compiled.modules["1"] is wrapped.get_submodule("_orig_mod.1")


def test_only_what_is_asked_for_is_wanted() -> None:
    probe = Probe(model=networks.mlp(), batches=(), layout=Layout((), ()), wanted=frozenset({"margin/p10"}))
    assert probe.wants("margin/p10")
    assert not probe.wants("margin/p50")
    assert probe_of(()).wants("margin/p50")


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_logits_are_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    model = networks.made(networks.mlp).to(dtype)
    with probing(model, networks.images(COUNT).to(dtype), TARGETS) as probe:
        assert forward_once(probe).dtype == expected


def test_taps_remove_their_hooks_after_an_error() -> None:
    model = networks.made(networks.ResNet)

    def interrupted() -> None:
        with probing(model, networks.images(COUNT), TARGETS) as probe, probe.tapped():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_tap_starts_the_graph_where_none_arrives() -> None:
    model = networks.made(networks.Tokens).requires_grad_(False)
    with probing(model, networks.token_ids(COUNT), TARGETS) as probe, probe.tapped() as caught:
        logits = forward_once(probe)
    (gradient,) = torch.autograd.grad(logits.sum(), [caught["h3"]])
    torch.testing.assert_close(gradient, model.head.weight.sum(0).expand(COUNT, -1))


def test_an_inplace_follower_on_a_tap_that_starts_the_graph_is_harmless() -> None:
    model = nn.Sequential(
        nn.Embedding(networks.VOCABULARY, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, networks.CLASSES)
    ).requires_grad_(False)
    with probing(model, networks.token_ids(COUNT), TARGETS, layers=["0"]) as probe, probe.tapped() as caught:
        forward_once(probe)
    assert bool((caught["h1"] < 0).any())
    assert caught["h1"].requires_grad
