"""Training speed: the running mean of the steps' cross-entropy, where the loss provably is the cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric

from lightning_gengap.errors import GapError

_TIGHT, _LOOSE = 1e-4, 2e-2  # relative tolerances in float32 and in lower precision
_SMALL = 1e-2  # nats; below it the rounding of the softmax, not of the loss, sets the tolerance


class RunningLoss(Metric):
    """The running mean of the steps' training loss, in nats; accumulates on the device without synchronising.

    Reference: training speed as a measure of generalization, Ru et al. 2021 (arXiv 2006.04492).
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor) -> None:
        """Add one step's mean loss, a scalar."""
        precision = torch.float32 if loss.device.type == "mps" else torch.float64  # that device has no float64
        self.total = self.total.to(loss.device, precision) + loss.detach().to(precision)
        self.count = self.count.to(loss.device, precision) + 1

    def compute(self) -> Tensor:
        """The mean so far; NaN before the first step."""
        return self.total / self.count


@dataclass
class TrainingSpeed:
    """Follows the steps' loss, and checks on the first step of each epoch that it is the plain cross-entropy.

    The check compares the loss with the cross-entropy of every output of shape (batch, classes) that some module
    returned in that step. A loss with label smoothing, mixed labels, weights or further terms does not match; then,
    and for compiled models, which hide their modules' outputs, there is no training speed. In a distributed run it
    is this rank's own: ranks may disagree on whether it is valid, so none may wait for the others.

    Attributes:
        valid: whether the loss has passed every check so far.
        checked: whether there was one.
    """

    loss: RunningLoss = field(default_factory=RunningLoss)
    valid: bool = True
    checked: bool = False
    _outputs: list[Tensor] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def begin_check(self, model: nn.Module, classes: int) -> None:
        """Watch the step that follows with temporary hooks; they return nothing."""

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == classes:
                self._outputs.append(output.detach())

        self.close()
        self.valid = self.valid and not _is_compiled(model)
        if self.valid:
            self._handles = [module.register_forward_hook(keep) for module in model.modules()]

    def step(self, loss: Tensor | None, targets: Callable[[], Tensor]) -> None:
        """Add a step's mean loss (None: it reported none); `targets` is asked only when a check is pending."""
        if self._handles:
            self.checked, self.valid = True, loss is not None and self._passes(loss, targets)
        self.close()
        if self.valid and loss is not None:
            self.loss.update(loss)

    def _passes(self, loss: Tensor, targets: Callable[[], Tensor]) -> bool:
        try:
            labels = targets()
        except GapError:  # probe_data was given and the batches of training hold mixed or no labels
            return False
        return any(_is_cross_entropy(loss, output, labels) for output in self._outputs)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs = [], []

    def value(self) -> float | None:
        """The running mean in nats; None before the first step or where it is not defined."""
        if not self.valid or not self.checked or self.loss.count == 0:
            return None
        mean = float(self.loss.total / self.loss.count)  # not compute(), which would wait for other ranks
        return mean if math.isfinite(mean) else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        total, count = float(self.loss.total), float(self.loss.count)
        return {"valid": self.valid, "checked": self.checked, "total": total, "count": count}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> TrainingSpeed:
        """Go on from `state()`."""
        speed = cls(valid=state["valid"], checked=state["checked"])
        speed.loss.total, speed.loss.count = speed.loss.total + state["total"], speed.loss.count + state["count"]
        return speed


def _is_compiled(model: nn.Module) -> bool:
    wrapped = any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())
    return wrapped or getattr(model, "_compiler_ctx", None) is not None


def _is_cross_entropy(loss: Tensor, logits: Tensor, targets: Tensor) -> bool:
    if not 0 < len(targets) == len(logits) or int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        return False
    exact = float(cross_entropy(logits.double(), targets.to(logits.device)))
    low_precision = logits.dtype in (torch.float16, torch.bfloat16) or loss.dtype in (torch.float16, torch.bfloat16)
    return abs(float(loss) - exact) <= (_LOOSE if low_precision else _TIGHT) * max(exact, _SMALL)
