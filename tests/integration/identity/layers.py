"""Kinds of layers, of buffers and of ways to make a module."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tests.integration.identity.twins import CLASSES, EXAMPLES, FEATURES, Condition, Net, loader, perceptron

Build = Callable[[], nn.Module]


def around(layer: nn.Module, width: int = 6) -> nn.Module:
    """A perceptron with this layer in its middle."""
    return nn.Sequential(nn.Linear(FEATURES, 6), layer, nn.ReLU(), nn.Linear(width, CLASSES))


class Shaped(nn.Module):
    """Gives its inputs this shape, but for the first axis."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(len(inputs), *self.shape)


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(2, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.cell(inputs.reshape(len(inputs), 4, 2))[0][:, -1])


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(Shaped(2, 4), encoder, nn.Flatten(), nn.Linear(FEATURES, CLASSES))


class Checkpointed(nn.Module):
    """Activations of its first part are computed anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(checkpoint(self.first, inputs, use_reentrant=False))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.other.weight = self.one.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.relu(self.other(torch.relu(self.one(inputs)))))


class Script(nn.Module):
    """Compiled to TorchScript, with a batch norm, a counter and buffers that it replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0  # TorchScript takes it for an attribute of type int
        self.norm = nn.BatchNorm1d(FEATURES)
        self.register_buffer("count", torch.zeros(1))
        self.average = torch.zeros(1)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.average = self.average.to(inputs.device) + inputs.detach().mean()
        return self.norm(inputs) * (1 + 0.01 * self.calls) + self.average


def quantised() -> nn.Module:
    from torch.ao import quantization

    net = nn.Sequential(quantization.QuantStub(), *perceptron(), quantization.DeQuantStub()).train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(net)


def masked() -> nn.Module:
    net = perceptron()
    prune.l1_unstructured(net[0], "weight", 0.3)
    prune.random_structured(net[2], "weight", amount=0.2, dim=1)
    return net


def compiled_in_place() -> nn.Module:
    net = perceptron()
    net.compile(backend="eager")
    return net


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(FEATURES, 6), nn.Linear(FEATURES, 2), nn.Linear(2, 6)
        self.base.requires_grad_(False)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(inputs) + self.up(self.down(inputs))))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def parametrised() -> nn.Module:
    net = perceptron()
    parametrize.register_parametrization(net[0], "weight", Halved())
    return net


MODULES: dict[str, Build] = {
    "perceptron": perceptron,
    "batch norm": lambda: around(nn.BatchNorm1d(6)),
    "batch norm, cumulative": lambda: around(nn.BatchNorm1d(6, momentum=None)),
    "batch norm without statistics": lambda: around(nn.BatchNorm1d(6, track_running_stats=False)),
    "batch norm without weights": lambda: around(nn.BatchNorm1d(6, affine=False)),
    "instance norm with statistics": lambda: nn.Sequential(
        Shaped(2, 4), nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten(), perceptron()
    ),
    "group norm": lambda: around(nn.GroupNorm(2, 6)),
    "layer norm": lambda: around(nn.LayerNorm(6)),
    "dropout": lambda: around(nn.Dropout(0.5)),
    "alpha dropout": lambda: around(nn.AlphaDropout(0.3)),
    "random slopes": lambda: around(nn.RReLU()),
    "convolutions": lambda: nn.Sequential(
        Shaped(1, 2, 4), nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(9, CLASSES)
    ),
    "convolutions in 3 dimensions": lambda: nn.Sequential(
        Shaped(1, 2, 2, 2), nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES)
    ),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM with dropout": lambda: Recurrent(partial(nn.LSTM, num_layers=2, dropout=0.3)),
    "transformer": transformer,
    "spectral norm": lambda: around(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "spectral norm by hooks": lambda: around(nn.utils.spectral_norm(nn.Linear(6, 6))),
    "weight norm": lambda: around(parametrizations.weight_norm(nn.Linear(6, 6))),
    "weight norm by hooks": lambda: around(nn.utils.weight_norm(nn.Linear(6, 6))),
    "orthogonal": lambda: around(parametrizations.orthogonal(nn.Linear(6, 6))),
    "parametrised": parametrised,
    "pruned": masked,
    "low rank adaptation": Lora,
    "checkpointed": Checkpointed,
    "tied": Tied,
    "quantisation aware": quantised,
    "TorchScript": lambda: nn.Sequential(torch.jit.script(Script()), perceptron()),
    "traced": lambda: nn.Sequential(torch.jit.trace(perceptron(), torch.ones(2, FEATURES)), nn.Linear(4, CLASSES)),
    "compiled": lambda: torch.compile(perceptron(), backend="eager"),
    "compiled in place": compiled_in_place,
    "symbolically traced": lambda: torch.fx.symbolic_trace(perceptron()),
    "deep copy": lambda: copy.deepcopy(around(nn.BatchNorm1d(6))),
    "ReLU in place": lambda: nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(inplace=True), nn.Linear(6, CLASSES)),
    "lazy linear": lambda: nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, CLASSES)),
    "lazy batch norm": lambda: nn.Sequential(nn.LazyBatchNorm1d(), perceptron()),
}


# Buffers of all kinds, and what forwards do with them.


class Buffered(Net):
    """A buffer, and what each forward does with it."""

    def __init__(self, buffer: Tensor | None, change: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.register_buffer("own", buffer)
        self.change = change

    def touch(self, inputs: Tensor) -> Tensor | None:
        changed = self.change(self, inputs.detach())
        return changed if isinstance(changed, Tensor) and changed.ndim == 0 and changed.is_floating_point() else None


def grow(self: Any, inputs: Tensor) -> Tensor:
    self.own.resize_(len(self.own) + 1, FEATURES)[-1] = inputs.mean(0)
    return self.own.mean()


def exchange_memory(self: Any, inputs: Tensor) -> Tensor:
    self.own.set_(torch.cat([self.own, inputs.mean(0)]))
    return self.own.mean()


def multiply_sparse(self: Any, inputs: Tensor) -> Tensor:
    self.own.mul_(0.9)
    return torch.sparse.sum(self.own).to_dense() if self.own.layout == torch.sparse_coo else self.own.values().sum()


def replace_sparse(self: Any, inputs: Tensor) -> None:
    self.own.zero_()


def register_anew(self: Any, inputs: Tensor) -> Tensor:
    self.register_buffer("own", self.own + 1)
    return self.own.mean()


def delete(self: Any, inputs: Tensor) -> None:
    if hasattr(self, "own"):
        del self.own


def make(self: Any, inputs: Tensor) -> Tensor:
    if self.own is None:
        self.own = inputs.mean()
    return self.own


def add(self: Any, inputs: Tensor) -> None:
    self.own.add_(1)


def add_to_base(self: Any, inputs: Tensor) -> Tensor:
    self.own[0] += 1
    return self.own.sum()


def with_view(self: Any, inputs: Tensor) -> Tensor:
    self.own[1:].mul_(0.5)
    return self.own.t().sum()


def nothing(self: Any, inputs: Tensor) -> None:
    """The buffer is only there."""


def _quantised_tensor() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def _inference_tensor() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


BUFFERS: dict[str, tuple[Callable[[], Tensor | None], Callable[[Any, Tensor], Any]]] = {
    "resized": (lambda: torch.zeros(0, FEATURES), grow),
    "set to other memory": (lambda: torch.zeros(FEATURES), exchange_memory),
    "sparse": (lambda: torch.eye(4).to_sparse(), multiply_sparse),
    "sparse, emptied": (lambda: torch.eye(4).to_sparse(), replace_sparse),
    "sparse, uncoalesced": (lambda: torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)), multiply_sparse),
    "sparse rows": (lambda: torch.eye(4).to_sparse_csr(), multiply_sparse),
    "sparse columns": (lambda: torch.eye(4).to_sparse_csc(), nothing),
    "registered anew": (lambda: torch.zeros(2), register_anew),
    "deleted": (lambda: torch.zeros(2), delete),
    "made in the first forward": (lambda: None, make),
    "with NaN": (lambda: torch.tensor([torch.nan, 1.0]), add),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), add),
    "of eight bits": (lambda: torch.ones(3, dtype=torch.int8), add),
    "of float64": (lambda: torch.ones(3, dtype=torch.float64), add),
    "of bfloat16": (lambda: torch.ones(3, dtype=torch.bfloat16), add),
    "without an axis": (lambda: torch.tensor(1.0), add),
    "expanded": (lambda: torch.zeros(1).expand(3), lambda self, inputs: self.own[:1].add_(1).sum()),
    "overlapping": (lambda: torch.arange(4.0).as_strided((3, 2), (1, 1)), nothing),
    "view with stride": (lambda: torch.ones(3, 4).t()[::2], with_view),
    "quantised": (_quantised_tensor, nothing),
    "of inference mode": (_inference_tensor, nothing),
}


# Integer inputs, and what reads them.


class Embedded(Net):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.head = table, nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.table(inputs)
        return self.head(found.mean(1) if found.ndim == 3 else found)


class SparseGradients(Embedded):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def tokens() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    return loader(
        TensorDataset(torch.randint(0, 9, (EXAMPLES, 5), generator=generator), torch.arange(EXAMPLES) % CLASSES)
    )


def embedded(model: Callable[[], LightningModule]) -> Condition:
    return Condition(model, tokens)


EMBEDDINGS = {
    "embedding": lambda: Embedded(nn.Embedding(9, 6)),
    "embedding with a largest norm": lambda: Embedded(nn.Embedding(9, 6, max_norm=0.5)),
    "bag with a largest norm": lambda: Embedded(nn.EmbeddingBag(9, 6, max_norm=0.5)),
    "embedding with padding": lambda: Embedded(nn.Embedding(9, 6, padding_idx=0, scale_grad_by_freq=True)),
    "embedding with sparse gradients": lambda: SparseGradients(nn.Embedding(9, 6, sparse=True)),
}

LAYERS: dict[str, Condition] = {
    **{name: Condition(lambda build=build: Net(build())) for name, build in MODULES.items()},
    **{
        f"buffer {name}": Condition(lambda make=make, change=change: Buffered(make(), change))
        for name, (make, change) in BUFFERS.items()
    },
    **{name: embedded(model) for name, model in EMBEDDINGS.items()},
}
