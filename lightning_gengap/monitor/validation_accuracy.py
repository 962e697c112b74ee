"""The accuracy of a validation among what a module logs: whether a figure can be one, and how it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lightning_gengap.monitor.logged_figures import Figure, logged_figures
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.validated_weights import ValidatedWeights
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.overlap import digests

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_USUAL = re.compile(r"(val|valid|validation)[_/](acc|accuracy)", re.IGNORECASE)
_ROUNDING = 2.0**-21  # of a float32 that was summed over batches and divided
_TELLING = 0.2  # with more rounding than this, in samples, every number looks like a count
NO_KEY = "no key"  # the kind of the refusal of trainings that log no accuracy, which are many
_MOST_NAMED = 5  # keys of the user's, in a message
_PLAIN = "the share of validation samples that are classified right"
_SETTLE = f"Log {_PLAIN}, or pass GapMonitor(validation_accuracy={{}}) to take it as it is."
_NO_COUNT = "no count"
_COMPARED = 256  # samples of a validation whose content is compared with those that are trained on


@dataclass(frozen=True)
class ValidationAccuracy:
    """The accuracy of one validation.

    Attributes:
        value: the share of samples that are classified right, in [0, 1].
        samples: how many samples the validation had, over all ranks; None if unknown.
        key: under which it is logged.
        remark: how it was read, where that is not as it is logged.
    """

    value: float
    samples: int | None
    key: str
    remark: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why there is no validation accuracy. One of each `kind` is said in a training."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{PREFIX}actual_gap is absent: {self.reason}"


@dataclass
class Validation:
    """What the last validation of a training had and logged.

    Attributes:
        samples: its samples by data loader; None where the targets of a batch cannot be found.
        figures: what stands behind each logged key; None where Lightning does not say.
        percent: keys that were above 1 once, and exact shares in percent then.
        uncounted: keys that were no number of right samples once: later ones that look like it do so by chance.
        weights: on which weights it ran.
        first: digests of the first samples of the first validation, by data loader.
        begun: how many validations have begun.
    """

    samples: dict[int, int] | None = field(default_factory=dict)
    figures: dict[str, Figure] | None = field(default_factory=dict)
    percent: set[str] = field(default_factory=set)
    uncounted: set[str] = field(default_factory=set)
    weights: ValidatedWeights = field(default_factory=ValidatedWeights)
    first: dict[int, list[bytes]] = field(default_factory=dict)
    begun: int = 0

    def begin(self) -> None:
        """A validation begins."""
        self.begun += 1
        self.samples, self.figures, self.weights = {}, {}, ValidatedWeights()

    def count(self, read: Callable[[], ProbeBatch], loader: int = 0) -> None:
        """Count the samples of a batch. Nothing is known of a validation of which one batch is not understood."""
        if self.samples is None:
            return
        try:
            batch = read()
            self.samples[loader] = self.samples.get(loader, 0) + len(batch.targets)
            first = self.first.setdefault(loader, [])
            if self.begun == 1 and len(first) < _COMPARED:
                first += digests([batch])
        except Exception:  # validation batches may be of any form, and nothing else is asked of them
            self.samples = None

    def end(self, trainer: Trainer) -> None:
        """Read what was logged, before Lightning forgets it; counts are those of all ranks from now on."""
        self.figures = logged_figures(trainer)
        if trainer.world_size > 1:
            self._sum_over_ranks(trainer)

    def accuracy(self, trainer: Trainer, name: str | None) -> ValidationAccuracy | Refusal:
        """The accuracy logged under `name`, or else under the one key like val_acc; or why there is none.

        A figure is of this epoch, or it is refused. One without `name` must be a number of right samples divided by
        that of the validation, as far as its rounding can tell. One with `name` is taken as it is in [0, 1].
        """
        key = find_key(trainer.callback_metrics, name)
        if isinstance(key, Refusal):
            return key
        if self.weights.differ():
            return Refusal(
                f"other weights {key}",
                f"{key} is of other weights than those that are trained: a callback averages them, and puts the "
                "average in place for each validation. Compare with a validation of the trained weights.",
            )
        figure = Figure() if self.figures is None else self.figures.get(key)
        if figure is None:
            figure = (logged_figures(trainer) or {}).get(key)  # in a hook of training, in this epoch
        if figure is None:
            return Refusal(
                f"stale {key}",
                f"{key} was not logged for the whole of this epoch's validation. Log it in every validation, with "
                "on_epoch=True.",
            )
        value, samples = float(trainer.callback_metrics[key]), self._samples_of(key)
        found = read(key, value, figure, samples, named=name is not None, percent=key in self.percent)
        if name is None and not figure.total:
            found = self._counted(key, value, samples, found)
        if isinstance(found, ValidationAccuracy) and value > 1 + _ROUNDING and not figure.total:
            self.percent.add(key)
        return found

    def _counted(
        self, key: str, value: float, samples: int | None, found: ValidationAccuracy | Refusal
    ) -> ValidationAccuracy | Refusal:
        """What was found, unless earlier figures under this key were no numbers of right samples."""
        if isinstance(found, Refusal):
            if found.kind == f"{_NO_COUNT} {key}":
                self.uncounted.add(key)
            return found
        return _no_count(key, value, samples) if key in self.uncounted else found

    def _samples_of(self, key: str) -> int | None:
        if self.samples is None:
            return None
        loader = loader_of(key)
        return (sum(self.samples.values()) if loader is None else self.samples.get(loader)) or None

    def _sum_over_ranks(self, trainer: Trainer) -> None:
        """Every rank comes here with the same keys and loaders, or says that it knows nothing of them."""
        loaders: list[int] = trainer.strategy.broadcast(sorted(self.samples or {}))
        keys: list[str] = trainer.strategy.broadcast(sorted(self.figures or {}))
        own, figures = self.samples or {}, self.figures or {}
        counts = [[int(loader not in own), own.get(loader, 0)] for loader in loaders]
        counts += [[figures.get(key, Figure()).right, figures.get(key, Figure()).total] for key in keys]
        table = torch.tensor([[0, 0], *counts], device=trainer.strategy.root_device)
        summed: Any = trainer.strategy.reduce(table, reduce_op="sum")
        rows = summed.tolist()[1:]
        seen, counted = rows[: len(loaders)], rows[len(loaders) :]
        unknown = not loaders or any(missing for missing, _ in seen)
        self.samples = None if unknown else {loader: size for loader, (_, size) in zip(loaders, seen, strict=True)}
        for key, (right, total) in zip(keys, counted, strict=True):
            if self.figures is not None and key in self.figures:
                known = self.figures[key]
                self.figures[key] = Figure(int(right), int(total), known.average, known.objection)


def loader_of(key: str) -> int | None:
    """The data loader whose figure is logged under this key; None where it is of all."""
    _, _, loader = key.partition("/dataloader_idx_")
    return int(loader) if loader.isdigit() else None


def find_key(metrics: Mapping[str, Any], name: str | None) -> str | Refusal:
    """The key of the validation accuracy: `name`, or the one like (val|valid|validation)(_|/)(acc|accuracy)."""
    found = [key for key in metrics if (key == name if name else _USUAL.fullmatch(key))]
    if len(found) == 1:
        return found[0]
    wanted = repr(name) if name else "a key like val_acc or val/accuracy"
    reason = f"{len(found) or 'no'} logged metrics match {wanted}"
    kind = NO_KEY if name is None and not found else "unclear key"
    others = [key for key in metrics if "val" in key.lower() and not key.startswith(PREFIX)][:_MOST_NAMED]
    reason += f" ({', '.join(found)})" if found else f", but there are {', '.join(others)}" if others else ""
    return Refusal(kind, f"{reason}. Pass GapMonitor(validation_accuracy='<the key you log>').")


def read(
    key: str, value: float, figure: Figure, samples: int | None, *, named: bool = False, percent: bool = False
) -> ValidationAccuracy | Refusal:
    """A logged figure as a validation accuracy, or why it is none.

    Args:
        key: under which it is logged.
        value: as it is logged.
        figure: what stands behind it.
        samples: of the validation; None if unknown.
        named: whether the user named the key, which settles what cannot be told.
        percent: whether it was a percentage before.
    """
    settle = _SETTLE.format(repr(key))

    def refused(kind: str, what: str, remedy: str = settle) -> Refusal:
        return Refusal(f"{kind} {key}", f"the logged {key} is {what}. {remedy}")

    if not math.isfinite(value):
        return refused("not finite", f"{value}", "It is compared again once it is finite.")
    if figure.total:
        if samples is not None and figure.total != samples and not named:
            counted = f"an accuracy of {figure.total} predictions, where this validation had {samples} samples"
            return refused("counts", counted)
        remark = None
        if figure.average == "macro":
            remark = f"{key} is logged with average={figure.average!r}; its counts give {_PLAIN}, which is used."
        return ValidationAccuracy(figure.right / figure.total, figure.total, key, remark)
    if figure.objection and not named:
        return refused("object", figure.objection)
    if percent or value > 1 + _ROUNDING:
        if not 0 <= value <= 100 * (1 + _ROUNDING) or not (percent or _is_count(value / 100, samples, sure=True)):
            return refused("scale", f"{value:.6g}, no fraction in [0, 1]", "Log a fraction, not a percentage.")
        return ValidationAccuracy(min(value / 100, 1.0), samples, key, f"{key} is read as a percentage.")
    if value < 0:
        return refused("scale", f"{value:.6g}, no fraction in [0, 1]", f"Log {_PLAIN}.")
    if not named and not _is_count(value, samples):
        return _no_count(key, value, samples)
    return ValidationAccuracy(min(value, 1.0), samples, key)


def _no_count(key: str, value: float, samples: int | None) -> Refusal:
    what = f"{value:.6g}, no number of right samples divided by the {samples} of this validation"
    why = f"the logged {key} is {what}, as macro averages and unweighted means of batches are none"
    return Refusal(f"{_NO_COUNT} {key}", f"{why}. {_SETTLE.format(repr(key))}")


def _is_count(value: float, samples: int | None, sure: bool = False) -> bool:
    """Whether the value may be k / samples, or surely is: too many samples for its rounding tell nothing."""
    if samples is None:
        return not sure
    right = value * samples
    rounding = _ROUNDING * max(right, 1.0)
    if rounding > _TELLING:
        return not sure
    return abs(right - round(right)) <= rounding
