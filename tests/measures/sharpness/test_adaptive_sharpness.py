from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.sharpness.adaptive_sharpness import adaptive_sharpness, normalized
from lightning_gengap.measures.sharpness.sharpness import sharpness
from lightning_gengap.measures.sharpness.weight_noise import draws, noisy, proportional
from lightning_gengap.network.folding import folded
from tests import networks
from tests.probes import probing

COUNT = 16


def task() -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(networks.cnn_with_batch_norm).double().eval(), networks.images(COUNT).double()
    return model, images, networks.mostly_right_targets(model, images)


def loss_of(logits: Tensor, targets: Tensor) -> float:
    """Mean over samples of log sum exp(f) - f_y, one after another."""
    losses = [math.log(sum(map(math.exp, f))) - f[y] for f, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("kind", "rho"), [("normal", 0.4), ("uniform", 0.1), ("uniform", 0.8)])
def test_values_are_means_over_twenty_draws(kind: str, rho: float) -> None:
    model, images, targets = task()
    with probing(model, images, targets) as probe:
        values = adaptive_sharpness(probe)
        network = probe.cached(folded)
        states = [network.state, *(
            network.state | noisy(network.parameters, proportional(rho), seed, kind)  # type: ignore[arg-type]
            for seed in draws(probe.seed, 20)
        )]  # fmt: skip
        logits = [probe.logits_on(probe.batches[0].content, COUNT, state).detach() for state in states]
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


@pytest.mark.parametrize("rho", [0.1, 0.8])
def test_uniform_noise_fills_the_box_evenly(rho: float) -> None:
    weight = torch.linspace(-2, 2, 200_001).double()
    drawn = (noisy({"w": weight}, proportional(rho), 3, "uniform")["w"] - weight) / (rho * weight.abs())
    drawn = drawn[weight != 0]
    assert float(drawn.abs().max()) <= 1 + 1e-9
    assert abs(float(drawn.mean())) <= 4 / math.sqrt(3 * len(drawn))
    # The square of a uniform draw in [-1, 1] has mean 1/3 and variance 4/45.
    assert abs(float(drawn.square().mean()) - 1 / 3) <= 4 * math.sqrt(4 / 45 / len(drawn))


def test_logits_are_normalized_per_example_and_constants_are_harmless() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]]).double()
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]).double() / math.sqrt(2)
    torch.testing.assert_close(normalized(logits), expected)
    torch.testing.assert_close(normalized(1e6 * logits + 7), expected)


def test_more_draws_agree_with_the_fewer_ones_of_sharpness(monkeypatch: pytest.MonkeyPatch) -> None:
    file = importlib.import_module("lightning_gengap.measures.sharpness.adaptive_sharpness")
    monkeypatch.setattr(file, "DRAWS", 5)
    with probing(*task()) as probe:
        adaptive, plain = adaptive_sharpness(probe), sharpness(probe)
    for rho in (0.05, 0.1, 0.2):
        assert adaptive[f"adaptive_sharpness/normal_{rho}"] == pytest.approx(plain[f"sharpness/adaptive_{rho}"])
        drop = adaptive[f"adaptive_sharpness/normal_{rho}_drop"]
        assert drop == pytest.approx(plain[f"sharpness/adaptive_{rho}_drop"])


def test_a_batch_norm_that_cannot_be_folded_is_said() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    with probing(model, networks.images(8), torch.arange(8) % 4) as probe:
        assert adaptive_sharpness(probe) == {}
        assert len(probe.notes) == 1
        assert probe.notes[0].startswith("adaptive_sharpness/* is absent: batch norm '0' does not directly follow")
