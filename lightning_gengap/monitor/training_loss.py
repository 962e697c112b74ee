"""Means of the training loss over the steps, where the loss provably is the plain cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric

from lightning_gengap.monitor.step_hooks import hook_into

_TIGHT, _LOOSE = 1e-4, 2e-2  # relative tolerances in float32 and in lower precision
_WAITING = 256  # steps that are added together: a metric's update takes longer than what else is done at every step
_SMALL = 1e-2  # nats; below it the rounding of the softmax, not of the loss, sets the tolerance


class RunningLoss(Metric):
    """The running mean of the steps' training loss, in nats. It accumulates on the device without synchronising.

    Reference: Ru et al. 2021 (arXiv 2006.04492), where the sum of the steps' losses measures training speed.

    Example:
        >>> import torch
        >>> metric = RunningLoss()
        >>> for loss in (1.0, 3.0):
        ...     metric.update(torch.tensor(loss))
        >>> float(metric.compute())
        2.0
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
        """Add one step's mean loss, a scalar, or those of several steps, shape (steps,)."""
        precision = torch.float32 if loss.device.type == "mps" else torch.float64  # that device has no float64
        self.total = self.total.to(loss.device, precision) + loss.detach().to(precision).sum()
        self.count = self.count.to(loss.device, precision) + loss.numel()

    def compute(self) -> Tensor:
        """The mean so far, a scalar; NaN before the first step."""
        return self.total / self.count


class Sums(NamedTuple):
    """Summed losses of some steps, and how many; tensors or numbers."""

    total: Tensor | float
    steps: Tensor | float

    def since(self, earlier: Sums) -> Sums:
        """The part that came after `earlier`."""
        return Sums(self.total - earlier.total, self.steps - earlier.steps)

    def mean(self) -> float | None:
        """The mean loss; None without steps or where it is not finite."""
        mean = float(self.total) / float(self.steps) if self.steps else math.nan
        return mean if math.isfinite(mean) else None


_NOTHING = Sums(0.0, 0.0)


@dataclass
class Hits:
    """How many of the steps' own logits were right. Counting ends for good where logits or labels cannot be found."""

    correct: Tensor | float = 0.0
    seen: int = 0
    counting: bool = True

    def add(self, logits: list[Tensor], labels: Tensor | None) -> None:
        """Add a step, without synchronising with the device. It must have returned its logits once."""
        self.counting = self.counting and labels is not None and len(logits) == 1 and len(logits[0]) == len(labels)
        if self.counting and labels is not None:
            right = (logits[0].argmax(1) == labels.to(logits[0].device)).sum()
            self.correct = right + (self.correct.to(right) if isinstance(self.correct, Tensor) else int(self.correct))
            self.seen += len(labels)

    def accuracy(self) -> float | None:
        """The share of right ones; None where not all could be counted."""
        return float(self.correct) / self.seen if self.counting and self.seen else None


@dataclass
class TrainingLoss:
    """Follows the loss of the steps, and checks that it is the plain cross-entropy.

    On the first step of each epoch the loss is compared with the cross-entropy of every output of shape (batch,
    classes) that some module returned. A loss with label smoothing, mixed labels, weights or further terms does not
    match. Compiled models hide the outputs of their modules. In these cases there are no values.

    In the first epoch the module whose output matched is watched in every step, so that the accuracy on samples that
    were not trained on yet is known without a forward of its own.

    In a distributed run every rank follows its own steps. Ranks may disagree on `valid`, so none may wait for others.

    Attributes:
        valid: whether the loss has passed every check so far.
        checked: whether there was a check.
        epoch: of the present steps; None if its first step was not seen.
    """

    loss: RunningLoss = field(default_factory=RunningLoss)
    valid: bool = True
    checked: bool = False
    epoch: int | None = None
    _start: Sums = _NOTHING  # before the present epoch
    _first: Sums = _NOTHING  # of the first epoch, once it has ended
    _hits: Hits = field(default_factory=Hits)
    _head: str | None = None  # the module that returned the logits at the last check
    _checking: bool = False
    _outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)
    _waiting: list[Tensor] = field(default_factory=list)  # losses that are yet to be added

    def begin_step(self, model: nn.Module, classes: int, epoch: int, batch: int) -> None:
        """Watch the next step, as far as it is needed."""
        if batch == 0:
            if self.epoch == 0 and epoch > 0:
                self._first = self._sums().since(self._start)
            self.epoch, self._start = epoch, self._sums()
        counting = self.valid and self.epoch == 0 and self._hits.counting
        if batch == 0 or not self.checked or (counting and self._head is None):
            self.begin_check(model, classes)
        elif counting and self._head is not None:
            self._watch({self._head: model.get_submodule(self._head)}, classes)

    def begin_check(self, model: nn.Module, classes: int) -> None:
        """Watch all modules in the next step, with temporary hooks that return nothing."""
        self.valid = self.valid and not is_compiled(model)
        self._watch(dict(model.named_modules()) if self.valid else {}, classes)
        self._checking = bool(self._handles)

    def _watch(self, modules: Mapping[str, nn.Module], classes: int) -> None:
        def keep(name: str, module: nn.Module, output: Any) -> None:
            trained = torch.is_grad_enabled()  # not so while the first step is replayed
            if trained and isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == classes:
                self._outputs.append((name, output.detach()))

        self.close()
        self._handles = hook_into(modules, keep, self.close)

    def step(self, loss: Tensor | None, targets: Callable[[], Tensor]) -> None:
        """Add a step with its mean loss, if it reported one. `targets` reads its class indices, if they are needed."""
        if self._handles:
            labels = _read(targets)
            if self._checking:
                fits = (name for name, output in self._outputs if _is_cross_entropy(loss, output, labels))
                self._head = next(fits, None)
                self.checked, self.valid = True, self._head is not None
            if self.valid and self.epoch == 0:
                self._hits.add([output for name, output in self._outputs if name == self._head], labels)
        self.close()
        if self.valid and loss is not None:
            self._waiting.append(loss.reshape(()))
            if len(self._waiting) == _WAITING:
                self._add_waiting()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs, self._checking = [], [], False

    def _add_waiting(self) -> None:
        if self._waiting:
            self.loss.update(torch.stack(self._waiting))
            self._waiting.clear()

    def _sums(self) -> Sums:
        self._add_waiting()
        return Sums(self.loss.total, self.loss.count)  # not compute(), which would wait for other ranks

    def value(self) -> float | None:
        """The running mean in nats; None before the first step or where it is not defined."""
        return self._sums().mean() if self.valid and self.checked else None

    def values(self) -> dict[str, float]:
        """What is defined of the running mean, the first and present epoch's means, and the first one's accuracy."""
        if self.value() is None:
            return {}
        present = _NOTHING if self.epoch is None else self._sums().since(self._start)
        means = {
            "speed/train_loss_mean": self._sums().mean(),
            "speed/recent_loss": present.mean(),
            "speed/first_epoch_loss": (present if self.epoch == 0 else self._first).mean(),
            "speed/first_epoch_accuracy": self._hits.accuracy(),
        }
        return {key: mean for key, mean in means.items() if mean is not None}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in primitives."""
        return {
            "valid": self.valid,
            "checked": self.checked,
            "epoch": self.epoch,
            "sums": [float(part) for part in self._sums()],
            "start": [float(part) for part in self._start],
            "first": [float(part) for part in self._first],
            "hits": {**vars(self._hits), "correct": float(self._hits.correct)},
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> TrainingLoss:
        """Go on from `state()`."""
        restored = cls(valid=state["valid"], checked=state["checked"], epoch=state["epoch"])
        total, steps = state["sums"]
        restored.loss.total, restored.loss.count = restored.loss.total + total, restored.loss.count + steps
        restored._start, restored._first = Sums(*state["start"]), Sums(*state["first"])
        restored._hits = Hits(**state["hits"])
        return restored


def _read(targets: Callable[[], Tensor]) -> Tensor | None:
    try:
        return targets()
    except Exception:  # mixed or no labels, because probe_data was given; or a `target` that is not for such batches
        return None


def is_compiled(model: nn.Module) -> bool:
    """Whether a part of the model is compiled: hooks do not see into it."""
    wrapped = any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())
    return wrapped or getattr(model, "_compiler_ctx", None) is not None


def _is_cross_entropy(loss: Tensor | None, logits: Tensor, targets: Tensor | None) -> bool:
    if loss is None or targets is None:
        return False
    if not 0 < len(targets) == len(logits) or int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        return False
    exact = float(cross_entropy(logits.double(), targets.to(logits.device)))
    low_precision = logits.dtype in (torch.float16, torch.bfloat16) or loss.dtype in (torch.float16, torch.bfloat16)
    return abs(float(loss) - exact) <= (_LOOSE if low_precision else _TIGHT) * max(exact, _SMALL)
