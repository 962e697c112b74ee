"""The measures without a Trainer, for any module and any batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from lightning_gengap.errors import ConfigurationError, MeasureError, naming_memory
from lightning_gengap.measurement import Measurement
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures import BY_DEFAULT, MEASURED, get_measure
from lightning_gengap.measures.agreement.mislabelled import Mislabelled, suspects
from lightning_gengap.network.probe import State
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.drawn_order import first_batches, in_drawn_order, loader_in_drawn_order
from lightning_gengap.samples.nested import map_tensors
from lightning_gengap.samples.others import Others
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples, checked_batches
from lightning_gengap.samples.source import Source
from lightning_gengap.samples.trainable_indices import trainable_indices
from lightning_gengap.undisturbed import random_streams_kept

LEAST_DECAY = 1e-12
ALL = 2**62  # more samples than there are


class Measured(dict[str, float]):
    """Numbers by key.

    Attributes:
        mislabelled: the samples that look mislabelled, most suspicious first; empty where `reference` was not measured.
    """

    def __init__(self, values: Mapping[str, float], mislabelled: Sequence[Mislabelled] = ()) -> None:
        super().__init__(values)
        self.mislabelled = list(mislabelled)


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
    samples: int | None = None,
    train_samples: int | None = None,
) -> Measured:
    """Measure a model on training samples, in eval mode. Neither model nor data nor random streams are changed.

    With the weights, the samples and the seed of a monitor, the values are the monitor's, and so is what
    `load_predictor("default").predict` makes of them. Its interval is wider where the monitor has reasons for doubt;
    pass them to `predict` as `flags`. The cost is that of the measures (docs/measures.md): with the default ones some
    twelve forward passes over the samples.

    Args:
        model: any classifier that returns logits of shape (batch, classes).
        data: a dataset, a DataLoader or an iterable of batches of training samples. Of a loader over a dataset, the
            distinct samples that it can draw are measured. They are put into a seeded order, which decides what
            perturbations each of them meets; batches that cannot be joined keep theirs.
        measures: names of measures. By default those that a monitor with `verbosity="full"` takes: what the default
            predictor needs, on images too, and the cheap ones.
        initial_state: parameters and buffers before the first step. The difficulty on untrained features needs them.
        layers: one to three module names to watch as h1, h2 and h3, instead of the automatic choice.
        forward: maps (model, batch) to logits, for unusual batches.
        target: maps a batch to class indices, for unusual batches.
        seed: of the perturbation measures.
        weight_decay: of the training, which the soft rank, TIC and leave-one-out need: the coefficient of an L2
            penalty that is added to the gradient of the mean loss, or the optimizer itself. Pass the optimizer for
            AdamW, whose decay is of another kind. Where it is 0 or None, 1e-3 is assumed. Otherwise it is at least
            1e-12, because the rounding of the curvature hides anything smaller.
        samples: how many of the samples to measure, drawn as a monitor with this number and `seed` draws them. None
            measures all.
        train_samples: how many distinct samples the model was trained on. None counts those given.

    Returns:
        Numbers by key, as they are logged, without the prefix `gengap/`. Units and ranges are in docs/measures.md. An
        undefined value is absent, and one warning says why. `progress`, `trained_on_copies` and `speed/...` are facts
        of a training, and never there.

    Raises:
        GapError: data, targets, outputs, names or a weight decay that cannot be used. The message says what to do.
        MeasureError: a measure failed, memory did not suffice, or none of the `measures` asked for has a value. The
            message names measure and cause.

    Example:
        >>> import torch
        >>> from lightning_gengap import measure
        >>> images, labels = torch.eye(4).repeat(10, 1), torch.arange(4).repeat(10)
        >>> model = torch.nn.Linear(4, 4)
        >>> _ = model.load_state_dict({"weight": 3 * torch.eye(4), "bias": torch.zeros(4)})
        >>> values = measure(model, [(images, labels)], measures=["fit"])
        >>> values["train_accuracy"], round(values["train_loss"], 3), values["classes"]
        (1.0, 0.139, 4.0)
    """
    optimizers, ridge = _decay(weight_decay)
    names = None if measures is None else _names(measures)
    check_size("samples", samples)
    check_size("train_samples", train_samples)
    check_seed(seed)
    reader = SampleReader(ALL if samples is None else samples, seed, target, forward)
    measurer = measurer_for(model, data, reader, initial_state, train_samples, layers, ridge)
    measurer = replace(measurer, named=frozenset(names or ()))
    measurement = measurer.measure(model, default_measures() if names is None else names, optimizers=optimizers)
    if names is not None:
        require_some(measurement, names)
    for note in measurement.notes:
        warnings.warn(note, stacklevel=2)
    return Measured(measurement.values, mislabelled_of(measurer))


def mislabelled_of(measurer: Measurer) -> list[Mislabelled]:
    """The samples that look mislabelled, by their place in the data, once `reference` was measured; else none."""
    found, drawn = suspects(measurer.memory.warm_starts), measurer.samples.drawn
    return found if drawn is None else [each._replace(sample=int(drawn[each.sample])) for each in found]


def measurer_for(
    model: nn.Module,
    data: Any,
    reader: SampleReader,
    initial_state: State | None = None,
    train_samples: int | None = None,
    layers: Sequence[str] | None = None,
    weight_decay: float | None = None,
) -> Measurer:
    """What measures this model on the samples that are drawn from `data`. The arguments are those of `measure`."""
    memory = TrainingMemory(None if initial_state is None else _fitting(initial_state, model))
    samples, collated = _read(data, model, reader, train_samples)

    def of(samples: Samples) -> Measurer:
        return Measurer.of(model, samples, memory, reader.forward, layers, seed=reader.seed, weight_decay=weight_decay)

    measurer = of(samples)
    return of(_drawn(measurer, samples, reader)) if collated else measurer


def flags_of(measurer: Measurer, model: nn.Module) -> tuple[str, ...]:
    """The monitor's reasons to doubt a prediction for this model, for `Predictor.predict`; one forward."""
    doubtful = measurer.doubts_initial_weights(measurer.initial_accuracy(model))
    return ("initial_weights",) if doubtful else ()


def default_measures(predictor: Predictor | None = None) -> tuple[str, ...]:
    """The measures that `measure` takes by default: what the predictor needs, and the cheap ones."""
    predictor = load_predictor("default") if predictor is None else predictor
    preferred = () if predictor.preferred is None else predictor.preferred.measures
    return tuple(dict.fromkeys((*predictor.measures, *preferred, *BY_DEFAULT)))


def _drawn(measurer: Measurer, given: Samples, reader: SampleReader) -> Samples:
    """The drawn ones of samples that others have collated, in the monitor's order where they can be taken apart."""
    in_order = in_drawn_order if measurer.first.separable(given.batches) else first_batches
    batches = checked_batches(in_order(given.batches, reader))
    as_given = batches[0] is given.batches[0]
    return replace(given, batches=batches, drawn=range(len(given)) if as_given else reader.draw(range(len(given))))


def _read(data: Any, model: nn.Module, reader: SampleReader, train_samples: int | None) -> tuple[Samples, bool]:
    """Samples on the device of the model, and whether all are there as others have collated them: none is drawn yet."""
    device = next((parameter.device for parameter in model.parameters()), "cpu")

    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        return tensor.clone() if tensor.is_inference() else tensor  # a tensor of inference mode can have no gradient

    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=CHUNK)
    reader = replace(reader, place=lambda batch: map_tensors(batch, moved))
    reading = naming_memory("reading the samples")
    with reading, random_streams_kept(), _own_streams_kept(data), torch.inference_mode(False):
        others, drawn = None, None
        own_way = type(data).__iter__ is not DataLoader.__iter__ if isinstance(data, DataLoader) else True
        indices = None if own_way else trainable_indices(data)
        if indices is not None:
            size = len(indices)
            batches = reader.take(loader_in_drawn_order(data, indices, reader))
            drawn, others = reader.draw(indices), Others(Source.of(data, ()), indices, reader)
        else:
            batches = replace(reader, samples=ALL).take(data)
            size = sum(len(batch.targets) for batch in batches)
    size = size if train_samples is None else train_samples
    return Samples(checked_batches(batches), size, augmented=False, others=others, drawn=drawn), indices is None


def check_size(name: str, size: Any) -> None:
    """Refuse what is neither a number of samples nor None.

    Raises:
        ConfigurationError: it is no whole number of at least 1.
    """
    valid = isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1
    if size is not None and not valid:
        raise ConfigurationError(
            name, got=repr(size), expected="a whole number of at least 1, or None", remedy=f"For example {name}=1024."
        )


def check_seed(seed: Any) -> None:
    """Refuse what is no whole number.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ConfigurationError("seed", got=repr(seed), expected="a whole number", remedy="For example seed=0.")


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
    """The names of measures, all of them known."""
    if isinstance(measures, str):
        raise ConfigurationError(
            "measures", got=repr(measures), expected="a sequence of names", remedy=f"Pass [{measures!r}]."
        )
    names = tuple(measures)
    for name in names:
        get_measure(name)
    return names


def require_some(measurement: Measurement, names: Sequence[str]) -> None:
    """Refuse to return nothing of what was asked for by name, because the caller then looks for its keys."""
    if not names or any(MEASURED[key].measure in names for key in measurement.values if key in MEASURED):
        return
    raise MeasureError(
        f"measure{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}",
        got=f"no value ({'; '.join(measurement.notes) or 'no reason was given'})",
        expected="at least one",
        remedy="Ask for measures that are defined for this model and data; without measures= all such are taken.",
    )


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
    """Restore the random streams that a DataLoader and its samplers hold themselves."""
    sampler, batch_sampler = getattr(data, "sampler", None), getattr(data, "batch_sampler", None)
    holders = (data, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    states = [(generator, generator.get_state()) for generator in found if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
