from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.sharpness import adaptive_sharpness
from lightning_gengap.measures.sharpness.adaptive_sharpness import normalized
from lightning_gengap.measures.sharpness.weight_noise import Kind, draws, proportional, states_under_noise
from lightning_gengap.network.folding import folded
from tests import networks
from tests.probes import probing, taken

COUNT = 16


def task() -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(networks.cnn_with_batch_norm).double().eval(), networks.images(COUNT).double()
    return model, images, networks.mostly_right_targets(model, images)


def loss_of(logits: Tensor, targets: Tensor) -> float:
    """Mean over samples of log sum exp(f) - f_y, one after another."""
    losses = [math.log(sum(map(math.exp, f))) - f[y] for f, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("kind", "rho"), [("normal", 0.4), ("uniform", 0.1), ("uniform", 0.8)])
def test_values_are_means_over_twenty_draws(kind: Kind, rho: float) -> None:
    model, images, targets = task()
    with probing(model, images, targets) as probe:
        values = taken("adaptive_sharpness", probe).values
        network = probe.cached(folded)
        noised = states_under_noise(network, proportional(rho), draws(probe.seed, 20), kind)
        logits = [next(probe.forwards(state))[1].detach() for state in (network.state, *noised)]
    centred = [f - f.mean(1, keepdim=True) for f in logits]
    unit = [f / f.square().sum(1, keepdim=True).sqrt() for f in centred]
    errors = [float((f.argmax(1) != targets).double().mean()) for f in logits]
    key = f"adaptive_sharpness/{kind}_{rho}"
    for name, (clean, *noised) in (
        (key, [loss_of(f, targets) for f in logits]),
        (f"{key}_normalized", [loss_of(f, targets) for f in unit]),
        (f"{key}_drop", errors),
    ):
        assert values[name] == pytest.approx(sum(noised) / 20 - clean, rel=1e-9, abs=1e-12)


def test_logits_are_normalized_per_example_and_constants_are_harmless() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]]).double()
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]).double() / math.sqrt(2)
    torch.testing.assert_close(normalized(logits), expected)
    torch.testing.assert_close(normalized(1e6 * logits + 7), expected)


def test_more_draws_agree_with_the_fewer_ones_of_sharpness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_sharpness, "DRAWS", 5)
    with probing(*task()) as probe:
        adaptive, plain = taken("adaptive_sharpness", probe).values, taken("sharpness", probe).values
    for rho in (0.05, 0.1, 0.2):
        assert adaptive[f"adaptive_sharpness/normal_{rho}"] == pytest.approx(plain[f"sharpness/adaptive_{rho}"])
        drop = adaptive[f"adaptive_sharpness/normal_{rho}_drop"]
        assert drop == pytest.approx(plain[f"sharpness/adaptive_{rho}_drop"])
