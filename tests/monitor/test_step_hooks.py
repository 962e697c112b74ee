"""A training step may do with its network what it likes: it does not notice that it is watched."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_gengap.monitor.step_hooks import hook_into
from tests.lightning_models import Stepping, TinyModel, fitted
from tests.tiny_predictors import tiny_monitor

Use = Callable[[TinyModel, Tensor], Any]


def saved(model: TinyModel, images: Tensor) -> int:
    file = io.BytesIO()
    torch.save(model.head, file)
    return len(file.getvalue())


def per_sample_gradients(model: TinyModel, images: Tensor) -> Any:
    weights = {name: weight.detach() for name, weight in model.head.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model.head, weights, (row,)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, torch.ones(3, 16))


def compiled(model: TinyModel, images: Tensor) -> Any:
    return torch.compile(lambda rows: model.head(rows), backend="eager", fullgraph=True)(torch.ones(2, 16))


USES: dict[str, Use] = {
    "pickled": lambda model, images: len(pickle.dumps(model.frozen)),
    "saved whole": saved,
    "copied": lambda model, images: copy.deepcopy(model.frozen),
    "scripted": lambda model, images: torch.jit.script(model.head).code,
    "traced": lambda model, images: str(torch.jit.trace(model.head, torch.ones(2, 16)).graph).count("aten::"),
    "symbolically traced": lambda model, images: len(torch.fx.symbolic_trace(model.head).graph.nodes),
    "exported": lambda model, images: len(torch.export.export(model.head, (torch.ones(2, 16),)).graph.nodes),
    "mapped": lambda model, images: torch.func.vmap(model.head)(torch.ones(2, 3, 16)),
    "per-sample gradients": per_sample_gradients,
    "compiled": compiled,
    "hooks counted": lambda model, images: [len(part._forward_hooks) for part in model.modules()],
}


class Uses(Callback):
    """The same at every moment of a step."""

    def __init__(self, use: Use) -> None:
        self.use = use

    def at(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        self.use(module, torch.ones(2, 1, 6, 6))

    on_train_batch_start = on_before_backward = on_after_backward = on_train_batch_end = at


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_network_of_a_watched_step_can_be_used_in_any_way(use: Use) -> None:
    outcomes = []
    for monitors in ([], [tiny_monitor()]):
        used: list[Any] = []

        def step(model: TinyModel, batch: Any, used: list[Any] = used) -> Tensor:
            torch.manual_seed(int(model.global_step))
            found = use(model, batch[0])
            if isinstance(found, str | int | list):
                used.append(found)
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

        torch.manual_seed(0)
        values = fitted(*monitors, Uses(use), model=Stepping(step), limit_train_batches=2, max_epochs=1)
        weights = [weight.clone() for weight in values.trainer.lightning_module.parameters()]
        outcomes.append((used, weights, values.trainer.callback_metrics.get("gengap/status")))
    (plain, weights, _), (watched, own, status) = outcomes
    assert plain == watched
    assert all(torch.equal(one, other) for one, other in zip(weights, own, strict=True))
    assert status == 0


def test_a_hook_that_fails_ends_the_watching_and_nothing_else() -> None:
    model, failures, handles = nn.Linear(2, 2), [], []

    def fail(*_: Any) -> None:
        raise RuntimeError("not today")

    def failed() -> None:
        failures.append(1)
        for handle in handles:
            handle.remove()

    handles += hook_into({"": model}, fail, failed, fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert failures == [1]


def test_arguments_by_name_are_seen_and_other_modules_are_not() -> None:
    class Named(nn.Module):
        def forward(self, inputs: Tensor, scale: float = 1.0) -> Tensor:
            return inputs * scale

    model, seen = Named(), []
    handles = hook_into(
        {"part": model},
        lambda name, module, output: seen.append((name, float(output))),
        lambda: seen.append("failed"),
        lambda name, module, args, kwargs: seen.append((name, [float(part) for part in args], kwargs)),
    )
    try:
        model(torch.tensor(2.0), scale=3.0)
        Named()(torch.tensor(2.0))
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [("part", [2.0], {"scale": 3.0}), ("part", 6.0)]
