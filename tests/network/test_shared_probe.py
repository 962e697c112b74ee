"""Ranks share a probe where they hold one network and the same samples; threads stand for the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network import shared_probe
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.network.shared_probe import shared
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.calling import default_forward
from tests.network.test_ranks import on_ranks


def probe_of(rank: int, change: Callable[[Probe, int], None] = lambda probe, rank: None) -> Probe:
    """A network with running means, and two batches; `change` acts on them in place."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(5, 3, generator=generator)
    batches = tuple(read_batch((inputs[rows], torch.arange(5)[rows] % 2)) for rows in (slice(0, 3), slice(3, 5)))
    probe = Probe(model=model, batches=batches, layout=Layout.of(model, batches[0], default_forward))
    with torch.no_grad():
        change(probe, rank)
    return probe


def other_means(probe: Probe, rank: int) -> None:
    for buffer in probe.model.buffers():
        buffer.add_(rank)


def other_weights(probe: Probe, rank: int) -> None:
    next(probe.model.parameters()).add_(rank)


def other_inputs(probe: Probe, rank: int) -> None:
    probe.batches[1].content[0].add_(rank)


def other_targets(probe: Probe, rank: int) -> None:
    probe.batches[1].targets.add_(rank)


def without_norms(probe: Probe, rank: int) -> None:
    if rank == 1:
        probe.model.register_buffer("sparse", torch.eye(2).to_sparse())


def rows_on(ranks: Ranks, probe: Probe, augmented: bool = False) -> tuple[bool, Tensor]:
    """Whether it is shared, and the logits."""
    probe = shared(probe, ranks, "request", augmented)
    with probe.step():
        return probe.ranks is not None, probe.per_sample(lambda _, logits: logits)


def test_equal_networks_and_samples_are_shared():
    alone = probe_of(0).per_sample(lambda _, logits: logits)
    for is_shared, logits in on_ranks(2, lambda ranks: rows_on(ranks, probe_of(ranks.rank))):
        assert is_shared
        assert torch.equal(logits, alone)


def test_running_means_are_those_of_rank_zero():
    first = probe_of(0).per_sample(lambda _, logits: logits)
    for is_shared, logits in on_ranks(3, lambda ranks: rows_on(ranks, probe_of(ranks.rank, other_means))):
        assert is_shared
        assert torch.equal(logits, first)


def test_many_buffers_that_differ_are_not_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_probe, "MOST_NUMBERS", 3)
    found = on_ranks(2, lambda ranks: rows_on(ranks, probe_of(ranks.rank, other_means)))
    assert [is_shared for is_shared, _ in found] == [False, False]
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("change", [other_weights, other_inputs, other_targets, without_norms])
def test_each_rank_measures_alone_where_anything_else_differs(change: Callable[[Probe, int], None]):
    for rank, (is_shared, logits) in enumerate(on_ranks(2, lambda ranks: rows_on(ranks, probe_of(ranks.rank, change)))):
        assert not is_shared
        assert torch.equal(logits, probe_of(rank, change).per_sample(lambda _, logits: logits))


def test_augmented_copies_of_the_same_samples_are_shared():
    found = on_ranks(2, lambda ranks: rows_on(ranks, probe_of(ranks.rank, other_inputs), augmented=True))
    assert [is_shared for is_shared, _ in found] == [True, True]
    assert torch.equal(found[0][1], found[1][1])


def test_another_request_is_not_shared():
    found = on_ranks(2, lambda ranks: shared(probe_of(0), ranks, ranks.rank).ranks)
    assert found == [None, None]


def test_one_process_keeps_its_probe():
    probe = probe_of(0)
    assert shared(probe, None, "request") is probe
    assert replace(probe).ranks is None
