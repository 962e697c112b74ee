from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

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


IMAGES, LABELS = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2


def fresh(**changes: object) -> ZooModel:
    torch.manual_seed(0)
    return ZooModel(replace(small(), family="mlp", norm=False, dropout=0.0, augment=False, **changes), 1)


def loss_of(model: ZooModel) -> torch.Tensor:
    return model.training_step((IMAGES, LABELS), 0)


@dataclass
class Drawn:
    """Stands for the generator of a model's mixes: the same share, and the samples in this order."""

    share: float
    order: list[int]

    def beta(self, first: float, second: float) -> float:
        assert first == second == 0.2
        return self.share

    def permutation(self, count: int) -> np.ndarray:
        assert count == len(self.order)
        return np.array(self.order)


def test_labels_are_smoothed_as_torch_does():
    expected = cross_entropy(fresh()(IMAGES), LABELS, label_smoothing=0.1)
    assert torch.equal(loss_of(fresh(label_smoothing=0.1)), expected)
    assert not torch.equal(loss_of(fresh()), expected)


def test_a_mix_counts_each_label_in_its_share():
    order = [1, 0, 3, 2, 5, 4, 7, 6]
    one = fresh(mixup=0.2)
    one._mixing = Drawn(0.75, order)  # type: ignore[assignment]
    logits = one(0.75 * IMAGES + 0.25 * IMAGES[order])
    expected = 0.75 * cross_entropy(logits, LABELS) + 0.25 * cross_entropy(logits, LABELS[order])
    torch.testing.assert_close(loss_of(one), expected)


def test_mixes_are_drawn_by_the_seed_of_the_run():
    assert torch.equal(loss_of(fresh(mixup=0.2)), loss_of(fresh(mixup=0.2)))
    assert not torch.equal(loss_of(fresh(mixup=0.2)), loss_of(fresh()))
    assert not torch.equal(loss_of(fresh(mixup=0.2)), loss_of(fresh(mixup=0.2, seed=5)))
