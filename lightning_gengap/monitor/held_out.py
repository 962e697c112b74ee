"""Held-out samples of a training: read without a trace, refused where they are no evidence, and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_gengap.errors import DataError, LogitsError, frameless, naming_memory
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.monitor.estimation import Observed
from lightning_gengap.monitor.notices import say_no_held_out, say_validates_on_training
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.trainer_facts import current_hook_kept, move_in_training, place_in_training
from lightning_gengap.monitor.validation_accuracy import loader_of
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.predictors.comparison import Answers
from lightning_gengap.predictors.observations import HELD_OUT
from lightning_gengap.samples.drawing import check_data, read_whole, size_of_data
from lightning_gengap.samples.overlap import digest_of, digests, equal_digests, equal_samples, shared_indices
from lightning_gengap.samples.reader import SampleReader, Samples
from lightning_gengap.undisturbed import undisturbed

FEWEST = 10
_REMEDY = "Split samples off the training set before training, and never train on them."


@dataclass(frozen=True)
class HeldOut:
    """The samples that `held_out=` gives, and how they are read; no data where it gives none."""

    data: Any
    reader: SampleReader

    def watch(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Read the samples, once the monitored ones are known. What is no evidence is said once, and not used."""
        if self.data is None or state.measurer is None or state.held_out is not None or state.held_out_refused:
            return
        started = time.perf_counter()
        try:
            state.held_out = self._measurer(trainer, module, state, state.measurer)
            state.held_out_digest = digest_of(state.held_out.samples.batches)
        except Exception as error:  # of the user's data set too
            if state.raises:
                raise
            state.held_out_refused = True
            say_no_held_out(state, frameless(error))
        finally:
            state.budget.start_up += time.perf_counter() - started

    def measure(
        self, trainer: Trainer, module: LightningModule, state: RunState, ranks: Ranks | None
    ) -> Observed | None:
        """The accuracy of the present weights; None where it cannot be told, on this rank or another."""
        self.watch(trainer, module, state)
        measurer = state.held_out
        if measurer is None:
            return None
        started = time.perf_counter()
        try:
            measured = measurer.measure(module, ["fit"], ranks=ranks)
        except Exception as error:
            if state.raises:
                raise
            say_no_held_out(state, frameless(error))
            return None
        if measured.right is None:
            say_no_held_out(state, _not_finite())
            return None
        answers = Answers.of(state.held_out_digest, measured.right.numpy()) if state.held_out_digest else None
        accuracy, seconds = measured.values["train_accuracy"], time.perf_counter() - started
        return Observed(accuracy, len(measurer.samples), HELD_OUT, seconds, answers)

    def source_of_validation(self, trainer: Trainer, state: RunState, key: str) -> str | None:
        """Which samples the accuracy under this logged key is of: these where it has some of them, else its own.

        None where it has samples that are trained on, by their indices or by the content of its first ones: it is no
        evidence.
        """
        if key not in state.sources:
            of_pool = () if state.pool is None else state.pool.indices
            try:
                found = trainer.val_dataloaders
                loaders = dict(enumerate(found if isinstance(found, Sequence) else [found]))
                own = loader_of(key)
                loaders = loaders if own is None else {own: loaders[own]}
                known = sum(shared_indices(loader, trainer.train_dataloader, of_pool) for loader in loaders.values())
                same = any(shared_indices(self.data, loader) > 0 for loader in loaders.values())
                first = [digest for number in loaders for digest in state.validation.first.get(number, [])]
                known = known or _equal(first, state.measurer)
                same = same or _equal(first, state.held_out) > 0
            except Exception:  # loaders may be of any form
                known, same = 0, False
            state.sources[key] = None if known else HELD_OUT if same else key
            if known:
                say_validates_on_training(state, key, known)
        return state.sources[key]

    def _measurer(self, trainer: Trainer, module: LightningModule, state: RunState, probe: Measurer) -> Measurer:
        samples = self._read(trainer, module)
        self._check(samples, trainer, state, probe)
        if samples.augmented:
            rank_zero_info("GapMonitor: held_out= gives other inputs when an index is read twice: it is augmented.")
        batches = tuple(probe.first.settled(batch) for batch in samples.batches)
        samples = replace(samples, batches=batches, others=None)
        return replace(probe, samples=samples, memory=TrainingMemory(), wanted=None, named=frozenset())

    def _read(self, trainer: Trainer, module: LightningModule) -> Samples:
        reader = replace(self.reader, place=place_in_training(trainer), move=move_in_training(trainer))
        data_module = getattr(trainer, "datamodule", None)
        reading = naming_memory("reading the held-out samples")
        try:
            with reading, undisturbed(module, data_module), current_hook_kept(module):
                return read_whole(self.data, trainer.train_dataloader, reader, (trainer, module))
        except DataError as error:  # its words are those for training samples
            got = {name: part for name, part in error.parts.items() if name != "remedy"}
            raise DataError("held_out", **got, remedy=_REMEDY) from None

    def _check(self, samples: Samples, trainer: Trainer, state: RunState, probe: Measurer) -> None:
        """Refuse what says nothing of the network on new samples.

        Raises:
            DataError: they are too few, have labels that the network does not know, or were trained on.
        """
        check_number(len(samples))
        targets = torch.cat([batch.targets.cpu() for batch in samples.batches])
        lowest, highest = int(targets.min()), int(targets.max())
        if lowest < 0 or highest >= probe.classes:
            raise DataError(
                "held_out",
                got=f"class indices from {lowest} to {highest} for {probe.classes} logits",
                expected=f"the classes that are trained on, of indices from 0 to {probe.classes - 1}",
                remedy="Label both data sets alike.",
            )
        of_pool = () if state.pool is None else state.pool.indices
        known = shared_indices(self.data, trainer.train_dataloader, of_pool)
        if not known and not (samples.augmented or probe.samples.augmented):
            known = equal_samples(samples.batches, probe.samples.batches)
        if known:
            raise DataError(
                "held_out",
                got=f"{known} of {len(samples)} samples that are trained on",
                expected="samples that are never trained on",
                remedy=_REMEDY,
            )


def _equal(first: Sequence[bytes], measurer: Measurer | None) -> int:
    """How many of the first samples of a validation, known by their digests, equal these."""
    return 0 if measurer is None else equal_digests(first, digests(measurer.samples.batches))


def _not_finite() -> LogitsError:
    return LogitsError(
        "held_out",
        got="logits with NaN or infinity",
        expected="finite logits, as on the monitored samples",
        remedy="Check the inputs.",
    )


def check_number(samples: int) -> None:
    """Refuse so few samples that their accuracy says nothing.

    Raises:
        DataError: they are fewer than ten.
    """
    if samples < FEWEST:
        raise DataError(
            "held_out",
            got=f"{samples} samples",
            expected=f"at least {FEWEST}",
            remedy="Hold 50 or more out, or none: the prediction needs none.",
        )


def check_held_out(data: Any) -> None:
    """Refuse what no held-out samples can be read from, as far as that can be told before training.

    Raises:
        BatchError: it is no data.
        DataError: there are too few samples.
    """
    check_data(data, "held_out", "Pass samples that are never trained on.")
    number = size_of_data(data)
    if number is not None:
        check_number(number)
