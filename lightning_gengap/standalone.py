"""The same measures without a Trainer, for any module and any batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from lightning_gengap.batches import Forward, Target
from lightning_gengap.errors import ConfigurationError
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
    weight_decay: float | Optimizer | None = None,
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
        weight_decay: of the training, for the soft rank, TIC and leave-one-out: the coefficient of an L2 penalty that
            is added to the gradient of the mean loss, or the optimizer itself, which AdamW's needs.

    Returns:
        Floats by key as logged, without `gengap/`. What is undefined is absent, with one warning. The number of
        training samples is the number of samples given.

    Raises:
        GapError: data, targets, outputs or names that cannot be used; the message says what to do.
    """
    if isinstance(weight_decay, float | int) and not 0 <= weight_decay < math.inf:
        raise ConfigurationError(
            "weight_decay",
            got=repr(weight_decay),
            expected="a finite number that is not negative",
            remedy="Pass the optimizer's own.",
        )
    if initial_state is not None:
        initial_state = _fitting(initial_state, model)
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    everything = Reading(2**62, seed, target, forward, place=lambda batch: _moved(batch, device))
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=CHUNK)
    with random_streams_kept(), _own_streams_kept(data), torch.inference_mode(False):
        batches = take_batches(data, everything)
    count = sum(len(batch.targets) for batch in batches)
    samples = Samples(batches, count, augmented=False, source="probe_data")
    observer = Observer.of(model, samples, forward, layers, initial_state, seed)
    optimizers = (weight_decay,) if isinstance(weight_decay, Optimizer) else ()
    observer.ridge = None if isinstance(weight_decay, Optimizer) else weight_decay
    observation = observer.observe(model, MEASURES if measures is None else measures, optimizers=optimizers)
    for note in observation.notes:
        warnings.warn(note, stacklevel=2)
    return observation.values


def _moved(batch: Any, device: Any) -> Any:
    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        return tensor.clone() if tensor.is_inference() else tensor  # those can have no gradient

    return apply_to_collection(batch, Tensor, moved)


def _fitting(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The part of `state` that names parameters and buffers of `model`, each once."""
    parameters = dict(model.named_parameters())
    strangers = [name for name, own in parameters.items() if name not in state or state[name].shape != own.shape]
    if strangers:
        raise ConfigurationError(
            "initial_state",
            got=f"no value, or one of another shape, for {len(strangers)} parameters, first {strangers[0]!r}",
            expected="the parameters and buffers of this model at the start of training",
            remedy="Pass a deep copy of model.state_dict() that was taken before training.",
        )
    own = parameters | dict(model.named_buffers())
    return {name: state[name] for name in own if name in state}


@contextmanager
def _own_streams_kept(data: Any) -> Iterator[None]:
    """Restore the generators that a DataLoader and its samplers hold."""
    sampler, batch_sampler = getattr(data, "sampler", None), getattr(data, "batch_sampler", None)
    holders = (data, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    states = [(generator, generator.get_state()) for generator in found if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
