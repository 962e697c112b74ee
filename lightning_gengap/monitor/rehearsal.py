"""A measurement on a copy of the model, before the first step: what it changes there for good, it would in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_gengap.errors import one_line
from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.warning import rank_zero_warn
from lightning_gengap.samples.batches import Forward
from lightning_gengap.samples.reader import Samples
from lightning_gengap.undisturbed import find_lasting_changes

_NAMED = 3


def rehearse(
    model: nn.Module, samples: Samples, forward: Forward | None, layers: Sequence[str] | None, state: RunState
) -> None:
    """Say once what a measurement of this model cannot leave as it was. The model itself is not measured."""
    few = Samples(samples.batches[:1], samples.train_samples, samples.augmented)

    def run(twin: nn.Module) -> None:
        Measurer.of(twin, few, forward=forward, layers=layers).measure(twin, ["fit", "margin"])

    if not state.says_first("lasting changes"):
        return
    try:
        changed = find_lasting_changes(model, run)
    except Exception as error:  # whatever an object of the user's raises when it is read
        changed = [f"parts that cannot be compared ({one_line(error)})"]
    if changed:
        others = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        rank_zero_warn(
            f"GapMonitor cannot undo what a measurement changes in {', '.join(changed[:_NAMED])}{others}: training may "
            "differ from one without the monitor. Keep such state in buffers or plain attributes, or pass "
            "GapMonitor(forward=lambda module, batch: ...) with a forward that leaves it alone."
        )
