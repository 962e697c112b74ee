"""The same measures without a Trainer, for any module and any batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_gengap.batches import Forward, Target
from lightning_gengap.measures import MEASURES
from lightning_gengap.observer import Observer
from lightning_gengap.probe import State
from lightning_gengap.samples import CHUNK, Reading, Samples, take_batches
from lightning_gengap.undisturbed import random_streams_kept


def measure(
    model: nn.Module,
    data: Any,
    measures: Iterable[str] | None = None,
    initial_state: State | None = None,
    *,
    layers: Sequence[str] | None = None,
    forward: Forward | None = None,
    target: Target | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure a model on training samples: every sample given, in eval mode; nothing is changed.

    Args:
        model: any classifier that returns logits.
        data: a dataset, a DataLoader or an iterable of batches of training samples.
        measures: names of measures; by default everything that model and data allow.
        initial_state: parameters and buffers at the start of training, for the difficulty on untrained features.
        layers: module names for h1, h2 and h3 instead of the automatic choice.
        forward: maps (model, batch) to logits, for unusual batches.
        target: maps a batch to class indices, for unusual batches.
        seed: of the perturbation measures.

    Returns:
        Floats by key as logged, without `gengap/`. What is undefined is absent, with one warning. The number of training samples
        is the number of samples given.

    Raises:
        GapError: data, targets, outputs or names that cannot be used; the message says what to do.
    """
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    everything = Reading(2**62, seed, target, forward, place=lambda batch: _moved(batch, device))
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=CHUNK)
    with random_streams_kept():
        batches = take_batches(data, everything)
    count = sum(len(batch.targets) for batch in batches)
    samples = Samples(batches, count, augmented=False, source="probe_data")
    observer = Observer.of(model, samples, forward, layers, initial_state, seed)
    observation = observer.observe(model, MEASURES if measures is None else measures)
    for note in observation.notes:
        warnings.warn(note, stacklevel=2)
    return observation.values


def _moved(batch: Any, device: Any) -> Any:
    return apply_to_collection(batch, Tensor, lambda tensor: tensor.to(device))
