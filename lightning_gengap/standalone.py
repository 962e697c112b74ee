"""The same measures without a Trainer, for any module and any batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from lightning_gengap.errors import ConfigurationError, MeasureError
from lightning_gengap.measurement import Measurement, Measurer, naming_memory
from lightning_gengap.measures import BY_DEFAULT, MEASURED, get_measure
from lightning_gengap.network.probe import State
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples
from lightning_gengap.undisturbed import random_streams_kept

LEAST_DECAY = 1e-12


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
        measures: names of measures; by default everything that model and data allow. Where nothing of what was asked
            for by name can be measured, that is an error; where something can, what cannot is only absent.
        initial_state: parameters and buffers at the start of training, for the difficulty on untrained features.
        layers: module names for h1, h2 and h3 instead of the automatic choice.
        forward: maps (model, batch) to logits, for unusual batches.
        target: maps a batch to class indices, for unusual batches.
        seed: of the perturbation measures.
        weight_decay: of the training, for the soft rank, TIC and leave-one-out: the coefficient of an L2 penalty that
            is added to the gradient of the mean loss, or the optimizer itself, which AdamW's needs. Zero is none, for
            which 1e-3 is assumed; otherwise at least 1e-12, as less is lost in the rounding of the curvature.

    Returns:
        Floats by key as logged, without `gengap/`. What is undefined is absent, with one warning. The number of
        training samples is the number of samples given.

    Raises:
        GapError: data, targets, outputs, names or a weight decay that cannot be used; the message says what to do.
        MeasureError: a measure that failed, want of memory, or nothing of `measures` that can be measured; the message
            names measure and cause.
    """
    optimizers, ridge = _decay(weight_decay)
    names = None if measures is None else _names(measures)
    if initial_state is not None:
        initial_state = _fitting(initial_state, model)
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    everything = SampleReader(2**62, seed, target, forward, place=lambda batch: _moved(batch, device))
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=CHUNK)
    reading = naming_memory("reading the samples")
    with reading, random_streams_kept(), _own_streams_kept(data), torch.inference_mode(False):
        batches = everything.take(data)
    count = sum(len(batch.targets) for batch in batches)
    samples = Samples(batches, count, augmented=False)
    measurer = Measurer.of(model, samples, forward, layers, initial_state, seed)
    measurer.ridge = ridge
    measurement = measurer.measure(model, BY_DEFAULT if names is None else names, optimizers=optimizers)
    if names is not None:
        _require_some(measurement, names)
    for note in measurement.notes:
        warnings.warn(note, stacklevel=2)
    return measurement.values


def _decay(weight_decay: Any) -> tuple[tuple[Optimizer, ...], float | None]:
    """The optimizers to read a weight decay from, and the one that is stated."""
    if isinstance(weight_decay, Optimizer):
        return (weight_decay,), None
    if weight_decay is None:
        return (), None
    valid = isinstance(weight_decay, Real) and not isinstance(weight_decay, bool)
    if not (valid and (weight_decay == 0 or LEAST_DECAY <= weight_decay < math.inf)):
        raise ConfigurationError(
            "weight_decay",
            got=repr(weight_decay),
            expected=f"None, an optimizer, 0, or a finite number of at least {LEAST_DECAY:g}",
            remedy="Pass the optimizer of the training, or its weight_decay.",
        )
    return (), float(weight_decay)


def _names(measures: Iterable[str]) -> tuple[str, ...]:
    if isinstance(measures, str):
        raise ConfigurationError(
            "measures", got=repr(measures), expected="a sequence of names", remedy=f"Pass [{measures!r}]."
        )
    names = tuple(measures)
    for name in names:
        get_measure(name)
    return names


def _require_some(measurement: Measurement, names: Sequence[str]) -> None:
    """Refuse to return nothing of what was asked for by name: whoever asks for one value then looks for its key."""
    if not names or any(MEASURED[key].measure in names for key in measurement.values if key in MEASURED):
        return
    raise MeasureError(
        f"measure{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}",
        got=f"no value ({'; '.join(measurement.notes) or 'no reason was given'})",
        expected="at least one",
        remedy="Ask for measures that are defined for this model and data; without measures= all such are taken.",
    )


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
