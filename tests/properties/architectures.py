"""Small networks put together from parts: inputs, layers that keep a shape, a way to pool, more layers, a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

CLASSES, WIDTH, SIDE, LENGTH, VOCABULARY = 4, 6, 4, 5, 9
Layer = Callable[[], nn.Module]


class Residual(nn.Module):
    """A layer beside a shortcut."""

    def __init__(self, layer: nn.Module, in_place: bool = False) -> None:
        super().__init__()
        self.layer, self.in_place = layer, in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).add_(x) if self.in_place else x + self.layer(x)


class Checkpointed(Residual):
    """A layer whose activations are computed anew in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x, use_reentrant=False)


class Recurrent(nn.Module):
    """All outputs of a recurrent layer."""

    def __init__(self, kind: Any, **more: Any) -> None:
        super().__init__()
        self.cell = kind(WIDTH, WIDTH, batch_first=True, **more)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


class Attention(nn.Module):
    """Every place looks at all places."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


class InPlace(nn.Module):
    """Writes its outputs over a tensor that no other layer needs for its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu_(1.0 * x)


class Average(nn.Module):
    """Adds a running mean that every forward in train mode moves: a buffer that it replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().float().mean()
        return x + self.mean.to(x.dtype)


class Counted(nn.Module):
    """Counts its forwards in a plain attribute, and is scaled by the count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return x * (1 + 0.01 * self.calls)


class Cosine(nn.Module):
    """Logits by the angles to one direction per class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return 5 * nn.functional.normalize(x, dim=-1) @ nn.functional.normalize(self.weight, dim=-1).T


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.1, batch_first=True)


OF_ANY: dict[str, Layer] = {
    "ReLU": nn.ReLU,
    "in place": InPlace,
    "GELU": nn.GELU,
    "random slopes": nn.RReLU,
    "dropout": lambda: nn.Dropout(0.3),
    "average": Average,
    "counted": Counted,
}
OF_VECTORS: dict[str, Layer] = OF_ANY | {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "linear and ReLU in place": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)),
    "lazy linear": lambda: nn.LazyLinear(WIDTH),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "cumulative batch norm": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "alpha dropout": lambda: nn.AlphaDropout(0.2),
    "residual": lambda: Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())),
    "residual in place": lambda: Residual(nn.Linear(WIDTH, WIDTH), in_place=True),
    "checkpointed": lambda: Checkpointed(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
}
OF_IMAGES: dict[str, Layer] = OF_ANY | {
    "convolution": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "convolution and ReLU in place": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(inplace=True)),
    "lazy convolution": lambda: nn.LazyConv2d(2, 3, padding=1),
    "grouped convolution": lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False),
    "batch norm": lambda: nn.BatchNorm2d(2),
    "instance norm": lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    "group norm": lambda: nn.GroupNorm(1, 2),
    "channel dropout": lambda: nn.Dropout2d(0.2),
    "largest": lambda: nn.MaxPool2d(3, 1, 1),
    "mean": lambda: nn.AvgPool2d(3, 1, 1),
    "residual": lambda: Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())),
    "residual in place": lambda: Residual(nn.Conv2d(2, 2, 1), in_place=True),
    "checkpointed": lambda: Checkpointed(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(0.2))),
}
OF_SEQUENCES: dict[str, Layer] = OF_ANY | {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.1),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": Attention,
    "encoder": encoder,
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "residual": lambda: Residual(Attention()),
    "residual in place": lambda: Residual(nn.Linear(WIDTH, WIDTH), in_place=True),
}
TABLES: dict[str, Layer] = {
    "embedding": lambda: nn.Embedding(VOCABULARY, WIDTH),
    "embedding with a largest norm": lambda: nn.Embedding(VOCABULARY, WIDTH, max_norm=0.7),
    "embedding with padding": lambda: nn.Embedding(VOCABULARY, WIDTH, padding_idx=0),
    "bag": lambda: nn.EmbeddingBag(VOCABULARY, WIDTH),
    "bag with a largest norm": lambda: nn.EmbeddingBag(VOCABULARY, WIDTH, max_norm=0.7),
}
HEADS: dict[str, Layer] = {
    "linear": lambda: nn.Linear(WIDTH, CLASSES),
    "without bias": lambda: nn.Linear(WIDTH, CLASSES, bias=False),
    "lazy": lambda: nn.LazyLinear(CLASSES),
    "cosine": Cosine,
    "two layers": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)),
}
LAYERS = {"vectors": OF_VECTORS, "images": OF_IMAGES, "sequences": OF_SEQUENCES}
SHAPES = {"vectors": (WIDTH,), "images": (2, SIDE, SIDE), "sequences": (LENGTH, WIDTH), "tokens": (LENGTH,)}


@dataclass(frozen=True)
class Architecture:
    """Names of parts.

    Attributes:
        kind: of the inputs, a key of `SHAPES`.
        table: what reads tokens; empty for other inputs.
        body: layers of the inputs' kind.
        pooled: `last` or `mean` of a sequence, `flat` or `mean` of an image.
        tail: layers of vectors.
        head: what gives the logits.
        time_first: whether the places of a sequence stand on the first axis of a batch.
        whole_numbers: whether the images have eight bits.
    """

    kind: str = "vectors"
    table: str = ""
    body: tuple[str, ...] = ("linear", "ReLU")
    pooled: str = "mean"
    tail: tuple[str, ...] = ()
    head: str = "linear"
    time_first: bool = False
    whole_numbers: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all layers."""
        return (*self.body, *self.tail, self.head)

    @property
    def features(self) -> str:
        """The kind of what the body reads."""
        bag = self.table.startswith("bag")
        return {"tokens": "vectors" if bag else "sequences"}.get(self.kind, self.kind)

    def build(self) -> Network:
        return Network(self)


class Network(nn.Module):
    """The network of an architecture."""

    def __init__(self, parts: Architecture) -> None:
        super().__init__()
        self.parts = parts
        self.table = TABLES[parts.table]() if parts.table else nn.Identity()
        self.body = nn.Sequential(*(LAYERS[parts.features][name]() for name in parts.body))
        numbers = 2 * SIDE * SIDE if parts.pooled == "flat" else 2
        self.widen = nn.Linear(numbers, WIDTH) if parts.features == "images" else nn.Identity()
        self.tail = nn.Sequential(*(OF_VECTORS[name]() for name in parts.tail))
        self.head = HEADS[parts.head]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.parts.whole_numbers:
            inputs = inputs.to(next(self.widen.parameters()).dtype) / 64 - 2
        if self.parts.time_first:
            inputs = inputs.transpose(0, 1)
        return self.head(self.tail(self.pool(self.body(self.table(inputs)))))

    def pool(self, features: Tensor) -> Tensor:
        if self.parts.features == "images":
            return self.widen(features.flatten(1) if self.parts.pooled == "flat" else features.mean((2, 3)))
        if self.parts.features == "sequences":
            return features[:, -1] if self.parts.pooled == "last" else features.mean(1)
        return features


@st.composite
def architectures(draw: Any, kinds: tuple[str, ...] = tuple(SHAPES)) -> Architecture:
    """Architectures of up to three layers of the inputs' kind, and two of vectors."""
    kind = draw(st.sampled_from(kinds))
    table = draw(st.sampled_from(list(TABLES))) if kind == "tokens" else ""
    features = Architecture(kind, table).features
    return Architecture(
        kind,
        table,
        tuple(draw(st.lists(st.sampled_from(list(LAYERS[features])), max_size=3))),
        draw(st.sampled_from({"images": ["flat", "mean"], "sequences": ["last", "mean"]}.get(features, ["mean"]))),
        tuple(draw(st.lists(st.sampled_from(list(OF_VECTORS)), max_size=2))),
        draw(st.sampled_from(list(HEADS))),
        time_first=kind in ("sequences", "tokens") and features == "sequences" and draw(st.booleans()),
        whole_numbers=kind == "images" and draw(st.booleans()),
    )
