"""The samples of a Trainer's training set: which there are, and how the monitored ones are read without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import GapError, MeasureError, naming_memory, one_line
from lightning_gengap.monitor.notices import say_copied_instead
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.trainer_facts import current_hook_kept, move_in_training, place_in_training
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.fingerprint import Fingerprint
from lightning_gengap.samples.reader import SampleReader, Samples
from lightning_gengap.samples.trainable_indices import Trainable, trainable
from lightning_gengap.undisturbed import undisturbed


def pool_of(trainer: Trainer) -> Trainable | None:
    """The indices that training draws from; None where they are unknown."""
    try:
        return trainable(trainer.train_dataloader, trainer.num_training_batches)
    except Exception:  # the user's sampler: the first batches are copied
        return None


def drawn_from(pool: Trainable | None, reader: SampleReader, probe_data: Any) -> Sequence[int]:
    """The indices of the monitored samples; none where these come from elsewhere."""
    return () if pool is None or probe_data is not None else reader.draw(pool.indices)


def size_of(samples: Samples, pool: Trainable | None) -> int | None:
    """The size of the training set, whatever part of it training meets; None if it is unknown."""
    if pool is None:
        return samples.train_samples
    return len(pool.indices) if pool.known else None


def read_samples(
    trainer: Trainer, module: LightningModule, reader: SampleReader, probe_data: Any, state: RunState
) -> Samples | None:
    """The samples; None where only batches of training can be copied, also because reading by index failed."""
    reader = replace(reader, place=place_in_training(trainer), move=move_in_training(trainer))
    loader = trainer.train_dataloader
    data_module = getattr(trainer, "datamodule", None)  # its transfer hooks may have a state too

    @contextmanager
    def guard() -> Iterator[None]:
        with undisturbed(module, data_module), current_hook_kept(module):
            yield

    try:
        with naming_memory("reading the training samples"), guard():
            keep = (trainer, module)
            samples = draw_samples(loader, reader, probe_data, trainer.num_training_batches, keep)
        if samples is None or samples.others is None:
            return samples
        # Several processes would each read all of them.
        return replace(samples, others=None if trainer.world_size > 1 else replace(samples.others, guard=guard))
    except GapError:
        raise
    except Exception as error:  # the user's data set, collate function or transfer hook
        if state.raises:
            raise
        if probe_data is not None:
            raise MeasureError(
                "reading probe_data",
                got=one_line(error),
                expected="samples that can be read by index, or batches",
                remedy="Pass another view of the training set, or none: then training data are read.",
            ) from error
        say_copied_instead(state, error)
        return None


def fingerprint_of(
    module: LightningModule, reader: SampleReader, probe_data: Any, state: RunState
) -> Fingerprint | None:
    """That of the samples which this reader finds now; None where they cannot be read by index."""
    samples = None if state.pool is None else read_samples(module.trainer, module, reader, probe_data, state)
    if samples is None or state.pool is None:
        return None
    drawn = drawn_from(state.pool, reader, probe_data)
    return Fingerprint.of(replace(samples, train_samples=len(state.pool.indices)), drawn)
