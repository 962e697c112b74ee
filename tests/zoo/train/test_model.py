from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_gengap.zoo.train import model
from lightning_gengap.zoo.train.model import ZooModel, pretrain
from tests.zoo.train.recipes import small


def test_a_pretrained_start_keeps_all_but_the_last_layer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "PRETRAINING_EPOCHS", 2)
    monkeypatch.setattr(model, "PRETRAINING_SAMPLES", 200)
    task = replace(small().task, classes=(0, 1, 2, 3), train_samples=100)
    recipe = replace(small(), task=task, family="cnn", pretrained=True)
    fresh, started = ZooModel(recipe, 1), ZooModel(recipe, 1)
    started.load_state_dict(fresh.state_dict())
    pretrain(started, None)
    same = {name: torch.equal(fresh.state_dict()[name], value) for name, value in started.named_parameters()}
    *body, _, _ = same  # names of the last layer's weight and bias come last
    assert not any(same[name] for name in body if name.endswith("weight"))
    assert all(same[name] for name in list(same)[-2:])


def step(**changes: object) -> tuple[float, torch.Tensor]:
    """The loss of a first step on eight digits of two classes, and the gradient of the first weight."""
    torch.manual_seed(0)
    one = ZooModel(replace(small(), family="mlp", norm=False, dropout=0.0, augment=False, **changes), 1)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 2
    loss = one.training_step((images, labels), 0)
    loss.backward()
    return loss.item(), next(one.parameters()).grad.clone()


def test_smoothed_labels_are_those_of_torch():
    plain, smooth = step(), step(label_smoothing=0.1)
    assert smooth[0] > plain[0] * 0.5
    assert smooth[0] != plain[0]
    torch.manual_seed(0)
    one = ZooModel(replace(small(), family="mlp", norm=False, dropout=0.0, augment=False), 1)
    images, labels = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2
    expected = torch.nn.functional.cross_entropy(one(images), labels, label_smoothing=0.1)
    assert smooth[0] == expected.item()


def test_mixing_shares_of_one_and_itself_is_no_mixing(monkeypatch: pytest.MonkeyPatch):
    class Nothing:
        def beta(self, a: float, b: float) -> float:
            assert (a, b) == (0.2, 0.2)
            return 0.25

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)

    plain, mixed = step(), step(mixup=0.2)
    assert mixed[0] != plain[0]
    assert step(mixup=0.2)[0] == mixed[0]
    monkeypatch.setattr(model.np.random, "default_rng", lambda seed: Nothing())
    same = step(mixup=0.2)
    assert same[0] == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(same[1], plain[1])


def test_the_loss_of_a_mix_has_each_label_in_its_share(monkeypatch: pytest.MonkeyPatch):
    class Exchanged:
        def beta(self, a: float, b: float) -> float:
            return 0.0

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)[::-1].copy()

    plain = step()
    monkeypatch.setattr(model.np.random, "default_rng", lambda seed: Exchanged())
    assert step(mixup=0.2)[0] == pytest.approx(plain[0], rel=1e-6)  # the same samples in another order
