"""Probes on tiny data, as the measures see them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gengap.measures import compute
from lightning_gengap.measures.values import Figure
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch, read_batch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.undisturbed import undisturbed


def read(inputs: Tensor, targets: Tensor, chunk: int | None = None) -> tuple[ProbeBatch, ...]:
    size = chunk or len(targets)
    return tuple(read_batch((x, y)) for x, y in zip(inputs.split(size), targets.split(size), strict=True))


def layout_of(model: nn.Module, inputs: Tensor, layers: Sequence[str] | None = None) -> Layout:
    with undisturbed(model):
        return Layout.of(model, read(inputs, inputs.new_zeros(len(inputs)).long())[0], default_forward, layers)


def taps_of(model: nn.Module, inputs: Tensor, layers: Sequence[str] | None = None) -> dict[str, str]:
    return {tap.layer: str(tap) for tap in layout_of(model, inputs, layers).taps}


@contextmanager
def probing(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    chunk: int | None = None,
    layers: Sequence[str] | None = None,
    initial_state: Mapping[str, Tensor] | None = None,
    **more: Any,
) -> Iterator[Probe]:
    """A probe of `model` on the labelled inputs in chunks, inside the guard."""
    layout = layout_of(model, inputs, layers)
    with undisturbed(model):
        batches = read(inputs, targets, chunk)
        yield Probe(model=model, batches=batches, layout=layout, initial_state=initial_state, **more)


class Measured(NamedTuple):
    """What one measure gave: numbers and figures by key, reasons by absent key or pattern, and remarks."""

    values: dict[str, float]
    absent: dict[str, str]
    figures: dict[str, Figure]
    remarks: list[str]


def measured(measure: str, model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Measured:
    """What the measure of that name gives for `model` on the labelled inputs; `more` is passed to `probing`."""
    with probing(model, inputs, targets, **more) as probe:
        return taken(measure, probe)


def taken(measure: str, probe: Probe) -> Measured:
    """What the measure of that name gives for the probe."""
    computed = compute(probe, [measure])
    return Measured(computed.values, computed.absent.get(measure, {}), computed.figures, probe.notes)


def fingerprint(model: nn.Module, *data: Tensor) -> list[Any]:
    """All that measuring must leave as it is: parameters, buffers, gradients, modes, hooks, data and random streams."""
    return [
        [
            (name, id(tensor), tensor.requires_grad, tensor.tolist())
            for part in model.modules()
            for name, tensor in (*part._parameters.items(), *part._buffers.items())
            if tensor is not None
        ],
        [(id(p.grad), None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()],
        [(tensor.requires_grad, tensor.tolist()) for tensor in data],
        [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()],
    ]
