"""What a learning curve belongs to: a data set, a module and how it is trained, all as primitives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from lightning_gengap.samples.batches import Target
from lightning_gengap.samples.fingerprint import Fingerprint, differ, projected
from lightning_gengap.samples.nested import flat_tensors
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples
from lightning_gengap.samples.source import Source
from lightning_gengap.undisturbed import random_streams_kept

_READ = 256  # samples by which a data set is known
_NO_MATTER = frozenset(  # what does not decide what is learned
    {"accelerator", "devices", "num_nodes", "logger", "default_root_dir", "log_every_n_steps", "profiler"}
    | {"enable_progress_bar", "enable_model_summary", "enable_checkpointing", "num_workers", "pin_memory"}
    | {"persistent_workers", "prefetch_factor"}
)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Origin:
    """What tells a recipe and its data from others.

    Attributes:
        data: of samples that are drawn by a fixed seed.
        module: the name of its class.
        shapes: a hash of the names, shapes and types of its parameters.
        layers: a hash of how it prints.
        hyperparameters: its `hparams`, and its attributes that are numbers, texts, tuples of them or dataclasses.
        training: the batch size, the seed, and the arguments of loader and Trainer that decide what is learned.
    """

    data: Fingerprint
    module: str
    shapes: str
    layers: str
    hyperparameters: dict[str, str]
    training: dict[str, str]

    @classmethod
    def of(cls, module: nn.Module, data: Fingerprint, training: Mapping[str, Any]) -> Origin:
        """The origin of a training of this module."""
        shapes = [
            (name, None if is_lazy(tensor) else tuple(tensor.shape), str(tensor.dtype))
            for name, tensor in module.named_parameters()
        ]
        held = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_told(value)}
        told = {**held, **dict(getattr(module, "hparams", {}))}
        told.pop("training", None)
        return cls(
            data,
            _name_of(type(module)),
            _hash(repr(shapes)),
            _hash(repr(module)),
            {str(name): described(value) for name, value in told.items()},
            {name: described(value) for name, value in training.items() if name not in _NO_MATTER},
        )

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Origin:
        """The origin that a file describes."""
        return cls(**{**content, "data": Fingerprint(**content["data"])})

    def differences(self, other: Origin, training: bool = True) -> list[str]:
        """What differs in `other`, in words; nothing for the same recipe on the same data."""
        if self.module != other.module:
            return [f"module ({other.module} instead of {self.module})"]
        found = []
        if self.shapes != other.shapes:
            found.append("shapes of its parameters")
        elif self.layers != other.layers:
            found.append("layers of the module")
        found += _unequal("hyperparameter", self.hyperparameters, other.hyperparameters)
        found += _unequal("argument", self.training, other.training) if training else []
        return found + self.data.differences(other.data)


def fingerprint_of(dataset: Any, target: Target | None = None, collate: Any = None) -> Fingerprint:
    """The fingerprint of some of the samples of a data set, read without a trace and drawn by a fixed seed."""
    loader = DataLoader(dataset, collate_fn=collate)
    reader = SampleReader(_READ, target=target)
    indices = reader.draw(range(len(dataset)))
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    source = Source(dataset, loader.collate_fn, loader=loader, plain=True)
    with random_streams_kept():
        batches = reader.take(source.batches(chunks))
        again = reader.batch(next(iter(source.batches(chunks[:1]))))
    one, other = (projected(flat_tensors(batch.content)) for batch in (batches[0], again))
    return Fingerprint.of(Samples(batches, len(dataset), augmented=differ(one, other)), indices)


def described(value: Any) -> str:
    """A value as text that is the same in every process: of an object its class and its plain attributes."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        parts = [described(part) for part in value]
        return f"[{', '.join(sorted(parts) if isinstance(value, set | frozenset) else parts)}]"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{_name_of(type(value))}({described({each.name: getattr(value, each.name) for each in fields(value)})})"
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return _name_of(value)
    plain = {name: own for name, own in getattr(value, "__dict__", {}).items() if isinstance(own, _PLAIN)}
    return f"{_name_of(type(value))}({', '.join(f'{name}={own!r}' for name, own in sorted(plain.items()))})"


def _is_told(value: Any) -> bool:
    if isinstance(value, tuple):  # a list may be one that the module fills
        return all(isinstance(part, _PLAIN) for part in value)
    return isinstance(value, _PLAIN) or (is_dataclass(value) and not isinstance(value, type))


def _unequal(kind: str, one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [f"{kind} {name} ({other.get(name, 'none')} instead of {one.get(name, 'none')})" for name in names]


def _name_of(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
