"""Weights that stand in for the trained ones during a validation are noticed."""

from __future__ import annotations

import torch
from torch import nn

from lightning_gengap.monitor.validated_weights import ValidatedWeights


def network() -> nn.Module:
    odd = nn.Conv2d(3, 70, 3).to(memory_format=torch.channels_last)
    odd.register_parameter("single", nn.Parameter(torch.tensor(1.0)))
    odd.register_parameter("none", nn.Parameter(torch.empty(0)))
    odd.register_parameter("whole", nn.Parameter(torch.arange(3), requires_grad=False))
    return nn.Sequential(odd, nn.LazyLinear(2))


def test_the_same_weights_do_not_differ() -> None:
    weights, module = ValidatedWeights(), network()
    assert not weights.differ()
    for _ in range(3):
        weights.look(module)
        assert not weights.differ()


def test_a_change_of_any_parameter_is_seen_though_it_is_undone() -> None:
    for name, parameter in network()[0].named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        weights, module = ValidatedWeights(), network()
        changed = module[0].get_parameter(name)
        kept = changed.detach().clone()
        weights.look(module)
        with torch.no_grad():
            changed.mul_(0.999)
        weights.look(module)
        with torch.no_grad():
            changed.copy_(kept)
        weights.look(module)
        assert weights.differ(), name
