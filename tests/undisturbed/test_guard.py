from __future__ import annotations

import decimal
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import random_streams_kept, undisturbed
from tests import networks


class Interruption(KeyboardInterrupt):
    """Not an Exception, and nothing that the guard turns into one."""


@pytest.fixture
def model() -> nn.Module:
    """In training mode, with gradients, buffers of all kinds, and parts that the user froze."""
    model = networks.made(networks.cnn_with_batch_norm)
    model.register_buffer("mask", None)
    model.register_buffer("average", torch.tensor([float("nan"), 1.0]))
    model.train()
    model(networks.images()).sum().backward()
    model[0].weight.grad = None
    for frozen in (model[1], model[3], model[8]):
        frozen.eval()
    return model


@pytest.fixture(params=[False, True], ids=["returning", "interrupted"])
def interrupted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def guarded(model: nn.Module, block: Callable[[], Any], interrupted: bool) -> None:
    with pytest.raises(Interruption) if interrupted else nullcontext(), undisturbed(model):
        block()
        if interrupted:
            raise Interruption


def condition(model: nn.Module) -> dict[str, Any]:
    """All that training can notice: modes, buffers and gradients, with their identities."""
    return {
        "modes": [module.training for module in model.modules()],
        "buffers": [
            (name, id(buffer), None if buffer is None else repr(buffer.tolist()))
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ],
        "gradients": [id(parameter.grad) for parameter in model.parameters()],
    }


def forward_in_training_mode(model: nn.Module) -> None:
    model.train()
    model(networks.images())


def replace_buffers(model: nn.Module) -> None:
    model.mask = torch.ones(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.full_like(module.running_mean, 3.0)


def replace_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


DISTURBANCES: dict[str, Callable[[nn.Module], Any]] = {
    "training mode": lambda model: model.train(),
    "buffers written by a forward": forward_in_training_mode,
    "buffer with NaN written": lambda model: model.average.zero_(),
    "buffers replaced, an empty one filled": replace_buffers,
    "gradients replaced": replace_gradients,
    "another guard": lambda model: guarded(model, lambda: None, False),
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_the_model_is_left_as_it_was(model: nn.Module, disturb: Callable[[nn.Module], Any], interrupted: bool) -> None:
    before = condition(model)
    assert set(before["modes"]) == {True, False}
    guarded(model, lambda: disturb(model), interrupted)
    assert condition(model) == before


def test_everything_is_in_eval_mode_inside_also_after_an_inner_guard(model: nn.Module) -> None:
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        with undisturbed(model):
            pass
        assert not any(module.training for module in model.modules())


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), torch.rand(()).item()]


@pytest.mark.parametrize("guard", [lambda model: random_streams_kept(), undisturbed], ids=["streams", "model"])
def test_random_streams_go_on_as_if_nothing_happened(
    model: nn.Module, guard: Callable[[nn.Module], Any], interrupted: bool
) -> None:
    seed(0)
    expected = [draws(), draws()]
    seed(0)
    drawn = [draws()]
    with pytest.raises(Interruption) if interrupted else nullcontext(), guard(model):
        seed(5)
        draws()
        if interrupted:
            raise Interruption
    assert [*drawn, draws()] == expected


def test_gradients_flow_inside_no_grad(model: nn.Module) -> None:
    with torch.no_grad(), undisturbed(model):
        assert model(networks.images()).requires_grad
    assert torch.is_grad_enabled()


def test_inference_mode_is_off_inside(model: nn.Module) -> None:
    with torch.inference_mode():
        with undisturbed(model):
            assert not torch.is_inference_mode_enabled()
            assert networks.images().requires_grad_().sum().requires_grad
        assert torch.is_inference_mode_enabled()


def test_autocast_is_off_inside_and_on_again_after(model: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with undisturbed(model):
            assert model(networks.images()).dtype == torch.float32
        assert model(networks.images()).dtype == torch.bfloat16


@pytest.fixture
def precision() -> Iterator[None]:
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    for operation in _operations():
        operation.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn


def _operations() -> list[Any]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return [matmul, cudnn.conv, cudnn.rnn] if hasattr(matmul, "fp32_precision") else []


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_matrix_products_have_full_precision_inside(model: nn.Module, chosen: str, interrupted: bool) -> None:
    torch.set_float32_matmul_precision(chosen)
    seen = []
    guarded(model, lambda: seen.append(torch.get_float32_matmul_precision()), interrupted)
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == chosen


@pytest.mark.usefixtures("precision")
@pytest.mark.skipif(not _operations(), reason="fp32_precision came with torch 2.9")
def test_precision_set_operation_by_operation_is_switched_and_restored(
    model: nn.Module, interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # convolutions have a precision there alone
    for operation in _operations():
        operation.fp32_precision = "tf32"
    seen: list[str] = []
    guarded(model, lambda: seen.extend(operation.fp32_precision for operation in _operations()), interrupted)
    assert set(seen) <= {"ieee", "none"}  # "none" is what `allow_tf32 = False` leaves behind
    assert [operation.fp32_precision for operation in _operations()] == ["tf32"] * 3


@pytest.mark.usefixtures("precision")
def test_tf32_convolutions_are_switched_off_on_cuda(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    torch.backends.cudnn.allow_tf32 = True
    with undisturbed(model):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_settings_that_a_forward_changes_are_restored(model: nn.Module, interrupted: bool, tmp_path: Path) -> None:
    before, context = settings(), decimal.getcontext()

    def change() -> None:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.autograd.set_detect_anomaly(True)
        warnings.simplefilter("ignore")
        os.chdir(tmp_path)
        torch.set_float32_matmul_precision("medium")
        np.seterr(over="raise")
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)
        context.prec, context.rounding, context.traps[decimal.Inexact] = 5, decimal.ROUND_UP, True
        context.flags[decimal.Rounded] = not context.flags[decimal.Rounded]
        decimal.setcontext(decimal.Context(prec=7))
        os.environ["MADE_BY_A_FORWARD"] = "1"
        del os.environ["PATH"]

    guarded(model, change, interrupted)
    assert settings() == before
    assert decimal.getcontext() is context


def settings() -> list[Any]:
    return [
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        list(warnings.filters),
        os.getcwd(),
        torch.get_float32_matmul_precision(),
        np.geterr(),
        sys.getrecursionlimit(),
        repr(decimal.getcontext()),
        dict(os.environ),
    ]


class Stop(BaseException):
    """No Exception, as SystemExit is none."""


@pytest.mark.parametrize("raised", [SystemExit(3), Stop("now")])
def test_what_a_measured_forward_raises_ends_nothing(model: nn.Module, raised: BaseException) -> None:
    training = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match=f"it raised {type(raised).__name__}") as caught, undisturbed(model):
        raise raised
    assert caught.value.__cause__ is raised
    assert [module.training for module in model.modules()] == training


def test_the_handler_of_a_signal_may_end_the_process(model: nn.Module) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(4)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with pytest.raises(SystemExit), undisturbed(model):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_transformers_take_no_fast_path_inside(model: nn.Module, interrupted: bool) -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    seen: list[bool] = []
    guarded(model, lambda: seen.append(torch.backends.mha.get_fastpath_enabled()), interrupted)
    assert seen == [False]
    assert torch.backends.mha.get_fastpath_enabled()


def test_compiled_modules_run_eagerly_so_that_hooks_fire() -> None:
    compilations: list[Any] = []

    def backend(graph: Any, example_inputs: list[Tensor]) -> Any:
        compilations.append(graph)
        return graph.forward

    model = torch.compile(networks.made(networks.mlp), backend=backend)
    fired: list[bool] = []
    with undisturbed(model):
        model._orig_mod[1].register_forward_hook(lambda *_: fired.append(True))
        model(networks.images())
    assert fired
    assert not compilations
