from dataclasses import replace

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
