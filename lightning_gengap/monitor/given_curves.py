"""Learning curves as evidence: those of this recipe on these samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import frameless
from lightning_gengap.monitor.notices import say_no_curve
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.predictors.estimate import EstimatedAccuracy
from lightning_gengap.undisturbed import undisturbed


def take_curves(trainer: Trainer, module: LightningModule, state: RunState, target: Any) -> None:
    """Take the estimates of the curves that are given; say of one that is of another recipe or data set, and leave it.

    They are estimates of the accuracy after the last planned epoch, and count there alone.
    """
    curves = state.given.curves
    if not curves:
        return
    found = []
    for curve in curves:
        try:
            dataset = getattr(trainer.train_dataloader, "dataset", None)
            with undisturbed(module):
                collate = getattr(trainer.train_dataloader, "collate_fn", None)
                told = _arguments(trainer)
                differ = curve.differences(module, dataset, target=target, collate=collate, training=told)
                at_end = curve.estimate()
        except Exception as error:  # of the user's data set too
            if state.raises:
                raise
            say_no_curve(state, f"it could not be compared with this training: {frameless(error)}")
            continue
        if differ:
            say_no_curve(state, f"it is of another {'; another '.join(differ)}")
        else:
            found.append(EstimatedAccuracy(at_end.accuracy, at_end.deviation))
    at_end = tuple(dict.fromkeys((*state.given.at_end, *found)))  # one curve, listed twice, is one estimate
    state.given = replace(state.given, at_end=at_end, curves=())


def _arguments(trainer: Trainer) -> dict[str, Any]:
    """What decides how long and on which batches is trained, by the names of `learning_curve`."""
    told = {name: getattr(trainer, name, None) for name in ("max_epochs", "max_steps", "accumulate_grad_batches")}
    told["batch_size"] = getattr(trainer.train_dataloader, "batch_size", None)
    return {name: value for name, value in told.items() if value is not None}
