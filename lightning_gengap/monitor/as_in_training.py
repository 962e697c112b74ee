"""A forward as the training step makes it, without a trace, and how far its logits may be apart from equal ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import undisturbed

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_TIGHT, _LOOSE = 1e-5, 2e-2  # of the largest logit, in float32 on the CPU and in lower precision
_ELSEWHERE = 1e-4  # in float32 on accelerators, whose kernels may differ between calls


@contextmanager
def as_in_training(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    """Run a forward as the training step does, without gradients, and leave no trace."""
    modes = [(part, part.training) for part in module.modules()]
    precision = _float32_precision()
    with ExitStack() as stack:
        stack.enter_context(undisturbed(module))
        for part, mode in modes:
            part.training = mode
        for name, value in precision.items():
            _PRECISIONS[name][1](value)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        stack.enter_context(trainer.precision_plugin.forward_context())
        yield


def _set_tf32(value: Any) -> None:
    torch.backends.cudnn.allow_tf32 = value


_PRECISIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "convolutions": (lambda: torch.backends.cudnn.allow_tf32, _set_tf32),
}


def _float32_precision() -> dict[str, Any]:
    """How float32 is computed in training; nothing where it was set in another way."""
    try:
        return {name: read() for name, (read, _) in _PRECISIONS.items()}
    except RuntimeError:  # set through `fp32_precision`
        return {}


def rounding(trainer: Trainer, logits: Tensor) -> float:
    """How far equal logits may be apart."""
    low = logits.dtype in (torch.float16, torch.bfloat16) or "16" in str(trainer.precision)
    lowered = torch.float32 if not _float32_precision() else logits.dtype
    tight = _TIGHT if logits.device.type == "cpu" and lowered is logits.dtype else _ELSEWHERE
    return (_LOOSE if low else tight) * max(1.0, float(logits.double().abs().max()))
