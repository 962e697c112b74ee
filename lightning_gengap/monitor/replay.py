"""The first training batch, replayed: whether the function that is measured is the one that is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.as_in_training import as_in_training, rounding
from lightning_gengap.monitor.changed_inputs import is_augmented
from lightning_gengap.monitor.step_recording import Called, Returned, StepRecording, Streams, outputs_in
from lightning_gengap.monitor.training_loss import is_compiled
from lightning_gengap.network.functional_call import run_at
from lightning_gengap.samples.batches import ProbeBatch, hooks_for
from lightning_gengap.samples.nested import exchange, flat_tensors, handed_out

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lightning_gengap.monitor.run_state import RunState

_log = logging.getLogger(__name__)
_MOST_STREAMS = 6
_SAME_LOSS = 1e-5  # apart, relatively
_MOST_STEPS = 8  # that are recorded in vain, because no backward of theirs is seen


class Mismatch(NamedTuple):
    """By how much the logits of training and ours differ, what training calls, and what to do.

    `augmented` says that the function is the same, and that its inputs only look augmented or mixed.
    """

    difference: str
    remedy: str
    augmented: bool = False


class Trained(NamedTuple):
    """The loss that the step is about to go back through, and how the targets of a batch are read."""

    loss: Tensor
    read: Callable[[Any], ProbeBatch]

    def is_of(self, logits: Tensor, batch: Any, parts: int) -> bool:
        """Whether the loss, or so many `parts` of it, is the plain cross entropy of these logits."""
        targets = self.read(batch).targets
        if len(targets) != len(logits) or self.loss.numel() != 1:
            return False
        expected = float(cross_entropy(logits.double(), targets))
        losses = (float(self.loss.detach()) * factor for factor in (1, parts))
        return any(math.isclose(loss, expected, rel_tol=_SAME_LOSS) for loss in losses)


_ON_ANOTHER_RANK = Mismatch(
    "the first training step has other logits than the monitor gets from the same batch on another rank",
    "Pass GapMonitor(forward=lambda module, batch: ...) that returns the logits of training",
)


@dataclass
class Replay:
    """Compares the logits of the first training step with ours, on the same batch, weights and random streams.

    The step's own outputs are recorded by hooks. Before its backward, the monitor's call is made on a copy of the
    batch in train mode, with copies of the buffers. No state of the training is touched. A step where no module
    returns anything like logits, or where one waits for other processes, a compiled network, TorchScript, and on CUDA
    recurrent layers with dropout are not compared.

    Attributes:
        mismatch: what training calls instead, once it is known to differ.
        changed_inputs: whether the step augments or mixes the inputs of its batch; None where that is unknown.
    """

    mismatch: Mismatch | None = None
    changed_inputs: bool | None = None
    _begun: bool = False
    _steps: int = 0
    _settled: bool = False
    _recording: StepRecording | None = None
    _batch: Any = None
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, module: nn.Module, batch: Any, measurer: Measurer | None) -> None:
        """Record the step that begins, if it is the first one that can be compared."""
        self.end_step()
        if self._begun or measurer is None:
            return
        self._begun = True
        try:
            if is_compiled(module) or _waits_for_other_ranks(module) or _draws_in_cudnn(module):
                return
            self._batch = handed_out(batch)
            self._buffers = {name: buffer.detach().clone() for name, buffer in nn.Module.named_buffers(module)}
            self._recording = StepRecording(measurer.classes)
            self._recording.begin(module, batch)
        except Exception as error:
            _log.debug("The first training step is not compared: %s", error)
            self.close()

    def check(self, trainer: Trainer, module: nn.Module, measurer: Measurer | None, trained: Trained) -> None:
        """Compare, before the first backward."""
        recording = self._recording
        if recording is None:
            return
        recording.close()
        try:
            if measurer is not None:
                self.mismatch = self._compared(trainer, module, measurer, recording, trained)
        except Exception as error:
            _log.debug("The first training step could not be compared: %s", error)
        finally:
            self.close()

    def end_step(self) -> None:
        """Record the next step instead, where this one has ended and no backward of it was seen."""
        if self._recording is None:
            return
        self.close()
        self._steps += 1
        self._begun = self._steps >= _MOST_STEPS

    def settle(self, trainer: Trainer, state: RunState, forward_is_given: bool) -> str | None:
        """Act once, on all ranks together, on what the comparison showed; return what the user may want to know."""
        if self._settled:
            return None
        self._settled = self._begun or trainer.world_size > 1  # no rank may wait for another one later
        if not trainer.strategy.reduce_boolean_decision(self.mismatch is not None, all=False):
            return None
        other = self.mismatch is not None and not self.mismatch.augmented
        is_other = trainer.strategy.reduce_boolean_decision(other, all=False)
        found = self.mismatch if self.mismatch is not None and (other or not is_other) else _ON_ANOTHER_RANK
        if forward_is_given:
            return f"GapMonitor measures what forward= computes, and knows that {found.difference}."
        if is_other:
            state.never(f"{found.difference}. {found.remedy}")
        else:
            state.doubt("training_inputs")
            state.notes.append(
                f"{found.difference}. The samples are measured as they are; the intervals are wider "
                f"until you say that this is right: {found.remedy[0].lower()}{found.remedy[1:]}"
            )
        return None

    def close(self) -> None:
        """Remove the hooks and free the copies."""
        if self._recording is not None:
            self._recording.close()
        self._recording, self._batch, self._buffers = None, None, {}

    def _compared(
        self, trainer: Trainer, module: nn.Module, measurer: Measurer, recording: StepRecording, step: Trained
    ) -> Mismatch | None:
        """What differs; None where nothing does, or nothing can be compared."""
        if recording.waits:
            return None
        smallest = math.inf
        for start in _different([call.streams for call in recording.calls])[:_MOST_STREAMS]:
            logits, own = self._ours(trainer, module, measurer, start, self._batch)
            if logits is None:
                return None
            trained = _answers([each for each in recording.outputs if len(each.tensor) == len(logits)])
            if not _tell_samples_apart(trained):
                return None
            last = trained[-1]
            limit, apart = rounding(trainer, last.tensor), _nearest(logits, trained)
            if apart <= limit:
                self.changed_inputs = False
                return None
            if _is_the_same_call(own, recording):
                return None  # a state outside the buffers, such as a counter, makes the difference
            is_on_our_way = last.module and _nearest(last.tensor, own.outputs) <= limit
            if is_on_our_way and not self._lacks_what_follows(trainer, step, last.tensor, logits):
                return None  # it is followed by what is no module: a scale, or the mean of several heads
            smallest = min(smallest, apart)
        call = _last_call(recording)
        if call is None or math.isinf(smallest):
            return None
        mismatch = _explained(smallest, call, self._batch)
        augmented = call.prepared is not None and self._augments(trainer, module, measurer, recording, call.prepared)
        self.changed_inputs = augmented or None
        return mismatch._replace(augmented=augmented)

    def _lacks_what_follows(self, trainer: Trainer, step: Trained, trained: Tensor, ours: Tensor) -> bool:
        """Whether the loss shows that the step leaves out what turns these outputs into our logits."""
        parts = int(getattr(trainer, "accumulate_grad_batches", 1))
        return step.is_of(trained, self._batch, parts) and not step.is_of(ours, self._batch, parts)

    def _augments(
        self, trainer: Trainer, module: nn.Module, measurer: Measurer, recording: StepRecording, prepared: Tensor
    ) -> bool:
        """Whether our call gives the logits of training on these inputs, and these look augmented or mixed."""
        trained = _answers(recording.outputs)
        for plain in flat_tensors(self._batch):
            if not is_augmented(plain, prepared):
                continue
            batch = exchange(self._batch, plain, prepared)
            for start in _different([call.streams for call in recording.calls])[:_MOST_STREAMS]:
                logits, _ = self._ours(trainer, module, measurer, start, batch)
                if logits is not None and _nearest(logits, trained) <= rounding(trainer, trained[-1].tensor):
                    return True
        return False

    def _ours(
        self, trainer: Trainer, module: nn.Module, measurer: Measurer, start: Streams, batch: Any
    ) -> tuple[Tensor | None, StepRecording]:
        """Our logits in train mode, and everything like them that modules return on the way."""
        own = StepRecording(measurer.classes, only_trained=False)
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        batch = handed_out(batch)
        with as_in_training(trainer, module):
            start.go_on()
            own.begin(module, batch)
            try:
                output = run_at(module, buffers, lambda: measurer.first.call(module, batch))
            finally:
                own.close()
        return next(iter(outputs_in(output, measurer.classes)), None), own


def _different(streams: Sequence[Streams]) -> list[Streams]:
    """Those that differ from the one before."""
    return [each for at, each in enumerate(streams) if not at or not each.equals(streams[at - 1])]


def _is_the_same_call(own: StepRecording, trained: StepRecording) -> bool:
    """Whether the calls that made the logits are the same, with the same parts of the batch."""
    ours, theirs = _last_call(own), _last_call(trained)
    return ours is not None and theirs is not None and theirs.known and ours.written == theirs.written


def _last_call(recording: StepRecording) -> Called | None:
    """The last of the outermost calls that made an output."""
    before = [0, *(call.outputs for call in recording.calls)]
    made = [call for call, count in zip(recording.calls, before, strict=False) if call.outputs > count]
    return made[-1] if made else None


def _answers(outputs: Sequence[Returned]) -> Sequence[Returned]:
    """The outputs that may be the network's answer: those that no module had asked for, where there are such."""
    return [each for each in outputs if each.outermost] or outputs


def _tell_samples_apart(outputs: Sequence[Returned]) -> bool:
    """Whether there are outputs, and the last of them is not the same for all samples, as that of a head of zeros."""
    return bool(outputs) and bool((outputs[-1].tensor != outputs[-1].tensor[:1]).any())


def _nearest(logits: Tensor, outputs: Sequence[Returned]) -> float:
    """The largest difference between the logits and the outputs that are nearest to them."""
    same_size = [each.tensor for each in outputs if each.tensor.shape == logits.shape]
    return min((float((each.double() - logits.double()).abs().max()) for each in same_size), default=math.inf)


def _waits_for_other_ranks(module: nn.Module) -> bool:
    """Whether a forward in train mode waits for the other ranks, which may not make it."""
    return any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())


def _draws_in_cudnn(module: nn.Module) -> bool:
    """Whether dropout draws from a stream that only cuDNN knows, and that nobody can set back."""
    recurrent = (part for part in module.modules() if isinstance(part, nn.RNNBase) and part.dropout > 0)
    return any(weight.is_cuda for part in recurrent for weight in part.parameters())


def _explained(difference: float, call: Called, batch: Any) -> Mismatch:
    """What to tell the user."""
    differ = (
        f"the first training step has other logits than the monitor gets from the same batch, weights and random "
        f"state, by up to {difference:.2g}: training_step calls {call.written}"
    )
    written = f"GapMonitor(forward=lambda module, batch: {call.written})"
    if call.known:
        return Mismatch(differ, f"Pass {written}")
    remedy = (
        f"Pass {written}, where `prepared` makes these inputs as training_step does; or, where it only augments or "
        f"mixes them, GapMonitor({hooks_for(batch)}), which measures them plain"
    )
    return Mismatch(f"{differ}, on inputs that are not the batch's (normalised, augmented or mixed?)", remedy)
