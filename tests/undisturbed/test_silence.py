"""Backward hooks of the user's do not fire while something is measured, and `self.log` logs nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_gengap.undisturbed import undisturbed


def backward(model: nn.Module) -> None:
    model(torch.ones(2, 2, requires_grad=True)).sum().backward()


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_backward_hooks_fire_again_only_after_the_measurement():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fired: dict[str, int] = {}

    def count(name: str) -> Any:
        return lambda *_: fired.update({name: fired.get(name, 0) + 1})

    handles = [
        model[0].register_full_backward_hook(count("module")),
        model[1].register_full_backward_pre_hook(count("before")),
        model[0].weight.register_hook(count("tensor")),
        model[1].weight.register_post_accumulate_grad_hook(count("accumulated")),
        torch.nn.modules.module.register_module_full_backward_hook(count("global")),
    ]
    try:
        with undisturbed(model):
            backward(model)
        assert not fired
        backward(model)
        assert set(fired) == {"module", "before", "tensor", "accumulated", "global"}
    finally:
        for handle in handles:
            handle.remove()
    fired.clear()
    backward(model)
    assert not fired  # the handles still know their hooks


class Logging(LightningModule):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.log("value", inputs.mean())
        self.log_dict({"other": inputs.mean()})
        return inputs


class OwnLog(LightningModule):
    logged = 0

    def log(self, *args: Any, **kwargs: Any) -> None:
        type(self).logged += 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.log("value", inputs.mean())
        return inputs


@pytest.mark.parametrize("kind", [Logging, OwnLog])
def test_logging_is_left_out_also_in_a_nested_module(kind: type[LightningModule]):
    model = nn.Sequential(kind())
    attributes = set(vars(model[0]))
    with undisturbed(model):
        model(torch.ones(1))
        assert model[0].log("value", 1) is None
    assert set(vars(model[0])) == attributes
    if kind is OwnLog:
        assert OwnLog.logged == 0
        model(torch.ones(1))
        assert OwnLog.logged == 1
