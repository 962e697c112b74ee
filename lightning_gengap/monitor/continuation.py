"""What goes on from an earlier training: a resumed run, a second `fit`, a loader that was asked for again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.allowance import Budget
from lightning_gengap.monitor.containment import contained
from lightning_gengap.monitor.notices import say_no_initial_weights, say_other_data, say_other_measuring, say_unreadable
from lightning_gengap.monitor.origin import Origin, fitting, weights_digest
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.saved_state import StateError
from lightning_gengap.monitor.schedule import Selection
from lightning_gengap.monitor.trainer_facts import batches_trained
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.fingerprint import Fingerprint


def loaded_state(kept: Mapping[str, Any], key: str, kind: str) -> Mapping[str, Any]:
    """What a checkpoint holds for the monitor of this key, or for any of its `kind`, whatever its predictor."""
    own = kept.get(key)
    if not own:
        other: Any = next((state for name, state in kept.items() if name.startswith(f"{kind}{{")), None)
        known = other.items() if isinstance(other, Mapping) else ()
        own = {name: value for name, value in known if name == "format" or name in RunState.SHARED}
    return own if isinstance(own, Mapping) else {"format": type(own).__name__}


def begin(
    trainer: Trainer,
    module: LightningModule,
    selection: Selection,
    budget: float | None,
    raises: bool,
    loaded: Mapping[str, Any] | None,
    previous: RunState | None,
) -> RunState:
    """The state of a training that begins, or goes on once the samples are known to be those of before.

    The checkpoint that training resumes from has `loaded`; it is None without one. The last `fit` left `previous`.
    """
    state = RunState(selection, Budget(budget), selection.schedule(), raises)
    with contained(state, "beginning"):
        _take_over(state, trainer, module, loaded, previous)
    return state


def _take_over(
    state: RunState,
    trainer: Trainer,
    module: LightningModule,
    loaded: Mapping[str, Any] | None,
    previous: RunState | None,
) -> None:
    """Find the initial weights, and what an earlier training has left."""
    state.began = batches_trained(trainer)
    goes_on = loaded is None and previous is not None and weights_digest(module) in previous.seen
    if state.began == 0:
        known = fitting(previous.memory.initial_state, module) if goes_on and previous is not None else None
        state.memory.initial_state = copy_state(module) if known is None else known
        return
    saved = loaded if loaded is not None else {} if previous is None else previous.state()
    earlier = saved.get("memory")
    state.spare = fitting(earlier.get("initial_state") if isinstance(earlier, Mapping) else None, module)
    if loaded is None and not goes_on:
        state.memory.initial_state, state.unsure = copy_state(module), True  # as long as they do not know the task
        return
    state.memory.initial_state, state.fresh = state.spare, False
    if loaded is None and previous is not None:
        state.seen = previous.seen
    try:
        if saved:
            state.prepare(saved)
    except StateError as error:
        state.began = 0  # as far as is known, these data were trained on from the start
        say_unreadable(error, has_weights=state.spare is not None)
    else:
        if state.spare is None:
            say_no_initial_weights("holds those of another network" if saved else "was written without it")
        if state.past and state.spare is None:
            state.past["memory"].initial_state = None


def settle(
    measurer: Measurer,
    module: LightningModule,
    state: RunState,
    new: Origin,
    head_of: Callable[[Origin], Fingerprint | None],
) -> bool:
    """Let earlier values go on where they belong to these samples; return whether others were watched before.

    `new` is where the present samples come from. `head_of` reads the first of them as they were drawn for an older one.
    """
    old = state.past.get("origin", state.origin)
    if old is None:
        state.past, state.origin = {}, new
        return False
    head = None if old.drawn_alike(new.seed, new.asked) else head_of(old)
    differences = old.other_data(new, head)
    shuffled = bool(differences) and state.pool is None and _is_shuffled(old, new, measurer, module, state)
    if differences and not shuffled:
        was_watched, state.past = not state.past, {}
        state.begin_anew(batches_trained(module.trainer))
        state.origin = new
        say_other_data(state, differences)
        return was_watched
    state.resume()
    new = new.with_logits(replace(measurer, memory=state.memory), module)
    changes = ["a stream gives other samples"] if shuffled else old.other_measuring(new)
    if changes:
        state.forget_measured()
        say_other_measuring(state, changes)
    elif old.lacks_keys(new):
        state.memory.forget()
    state.origin = new if new.samples.count >= old.samples.count or changes else old
    return bool(changes)


def _is_shuffled(old: Origin, new: Origin, measurer: Measurer, module: LightningModule, state: RunState) -> bool:
    """Whether other samples of a stream are as well classified as those before, by the same weights."""
    readout = state.past.get("readout", state.readout)
    before, now = readout.last.get("train_accuracy"), measurer.accuracy(module)
    if before is None or now is None or not old.same_kind(new):
        return False
    spread = 0.25 * (1 / new.samples.count + 1 / old.samples.count)
    return now >= before - 3 * math.sqrt(spread)


def judge_start(state: RunState, measurer: Measurer, module: LightningModule, accuracy: float | None) -> None:
    """Flag initial weights, and weights at the start, that know the task or may.

    `accuracy` is that of the weights at the start; None where training has gone on since.
    """
    initial = measurer.initial_accuracy(module)
    knowing = measurer.doubts_initial_weights(initial) or (
        state.fresh and accuracy is not None and measurer.doubts_initial_weights(accuracy)
    )
    if state.unsure and knowing:
        state.memory.initial_state = state.spare
        if state.spare is None:
            say_no_initial_weights()
    state.unsure, state.spare, state.fresh = False, None, False
    if knowing:
        state.doubt("initial_weights")
