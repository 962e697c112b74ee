"""The cost that a measure declares, against the multiplications of the network's layers that it needs: no timings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gengap.derivatives import gauss_newton
from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.curvature import hessian, lanczos_runs
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.measures.sharpness import level_search, worst_case
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.probes import probing

SAMPLES, CHUNK, SIDE, CLASSES = 1024, 128, 4, 10  # the monitor's own numbers of samples


class Multiplications(TorchDispatchMode):
    """Counts those of convolutions, below autograd and functorch: every pass of the network, nothing else."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:  # by the input, by the weights
            self.total += args[0].numel() * args[2][0].numel() * sum(args[10][:2])
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.total += output.numel() * args[1][0].numel()
        return output


def network(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner in (networks.CHANNELS, *(depth - 1) * (4,)):
        layers += [nn.Conv2d(inner, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def task(samples: int = SAMPLES, depth: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    model = networks.made(partial(network, depth)).eval()
    images = torch.randn(samples, networks.CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model[-1].bias -= model(images).mean(dim=0)  # all classes are predicted
    return model, images, networks.mostly_right_targets(model, images)


def forward(probe: Probe) -> None:
    with torch.no_grad():
        for _ in probe.forwards():
            pass


def test_a_full_backward_counts_twice_and_one_through_the_activations_once() -> None:
    with probing(*task(), chunk=CHUNK) as probe:
        with Multiplications() as one:
            forward(probe)
        with Multiplications() as both:
            margin_signature(probe)
        images = probe.batches[0].inputs.requires_grad_()
        with Multiplications() as full:
            probe.model(images).sum().backward()
    assert one.total == SAMPLES * SIDE**2 * 9 * 4 * (3 + 4 + 4)
    assert both.total == pytest.approx(2 * one.total, rel=0.01)  # and what one and two samples hold is tried
    assert full.total == 3 * one.total * CHUNK / SAMPLES


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_costs_what_it_declares(name: str) -> None:
    model, images, targets = task()
    initial = {key: value + 0.1 for key, value in copy_state(model).items() if value.is_floating_point()}
    entry = MEASURES[name]
    with probing(model, images, targets, chunk=CHUNK, initial_state=initial, train_samples=SAMPLES) as probe:
        with Multiplications() as one:
            forward(probe)
        if name != "fit":
            probe.cached(clean_logits)
        if name != "margin":
            probe.cached(margin_signature)
        with Multiplications() as counted:
            values = entry.function(probe)
    forwards = counted.total / one.total
    assert values
    assert forwards <= (entry.at_most or 1.3 * entry.forwards + 0.05)
    if not (entry.at_most or entry.besides):
        assert entry.forwards <= 1.3 * forwards + 0.05, "declare less"
    if entry.at_most:
        assert entry.forwards <= entry.at_most


@pytest.mark.parametrize("name", [name for name, entry in MEASURES.items() if entry.by_key])
def test_a_measure_costs_less_where_few_of_its_keys_are_wanted(name: str) -> None:
    model, images, targets = task()
    entry = MEASURES[name]
    for wanted in (frozenset(entry.keys), *map(frozenset, zip(entry.keys))):
        with probing(model, images, targets, chunk=CHUNK, wanted=wanted) as probe:
            with Multiplications() as one:
                forward(probe)
            with Multiplications() as counted:
                assert set(entry.function(probe)) == wanted
        assert counted.total / one.total == pytest.approx(entry.cost(wanted))
    assert entry.cost(frozenset()) == 0
    assert entry.cost(None) == entry.forwards


# No search ends early: every bracket and drop is out of tolerance, every ascent goes on, soft ranks are small.
UNENDING: dict[str, list[tuple[Any, str, float]]] = {
    "soft_rank": [(lanczos_runs, "TOLERANCE", -1.0), (lanczos_runs, "FEW_DIRECTIONS", math.inf)],
    "tic": [(lanczos_runs, "TOLERANCE", -1.0)],
    "hessian": [(hessian, "TOLERANCE", -1.0), (hessian, "SAMPLES", 32)],
    "pac_bayes": [(level_search, "TOLERANCE", -1.0), (level_search, "LEAST_SPREAD", math.inf)],
    "worst_case": [(level_search, "TOLERANCE", -1.0), (worst_case, "TOLERANCE", math.inf)],
}
UNENDING["full_soft_rank"] = UNENDING["soft_rank"]


@pytest.mark.parametrize("name", [name for name, entry in MEASURES.items() if entry.at_most])
def test_a_search_that_never_ends_early_costs_the_declared_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, attribute, value in UNENDING.get(name, ()):
        monkeypatch.setattr(where, attribute, value)
    monkeypatch.setattr(gauss_newton, "SAMPLES", 32)  # of 64, as 512 are of 1,024
    model, images, targets = task(64, depth=10)
    ridge = {key: torch.full((), 1e-3 if value.ndim > 1 else 1e-2) for key, value in model.named_parameters()}
    initial = copy_state(model)
    with probing(model, images, targets, chunk=8, initial_state=initial, train_samples=SAMPLES, ridge=ridge) as probe:
        with Multiplications() as one:
            forward(probe)
        probe.cached(clean_logits)
        probe.cached(margin_signature)
        with Multiplications() as counted:
            MEASURES[name].function(probe)
    forwards = counted.total / one.total
    bound = MEASURES[name].at_most
    assert bound is not None
    assert forwards <= bound
    assert bound <= 1.75 * forwards, "declare less"  # second derivatives take longer than their multiplications
