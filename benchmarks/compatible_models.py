"""The classifiers that `compatibility.py` trains: torchvision's and timm's, and small ones on other kinds of data."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

CLASSES = 4
IMAGES, OTHERS = 20, 512  # samples, five of each class and more
SMALL = (32, 64, 128)  # pixels

# All classification families of torchvision; of each module of timm 1.0 the smallest below 40 million parameters, and
# the second smallest where it is small too; and some other small ones of timm. Larger ones would train for minutes on a
# CPU. The small ones come first.
_NAMES = Path(__file__).with_name("architectures.txt")


class Candidate(NamedTuple):
    """A classifier to train.

    Attributes:
        kind: where it comes from, or its kind of data.
        build: makes the network and the inputs of so many samples.
        samples: how many to train on.
    """

    kind: str
    name: str
    build: Callable[[int], tuple[nn.Module, Tensor]]
    samples: int


def candidates() -> list[Candidate]:
    """All of them, the small ones first."""
    builders = {"torchvision": _torchvision, "timm": _timm}
    named = (line.split() for line in _NAMES.read_text().splitlines())
    large = [Candidate(kind, name, partial(builders[kind], name), IMAGES) for kind, name in named]
    return [Candidate(kind, name, build, OTHERS) for kind, name, build in _OWN] + large


def _torchvision(name: str, samples: int) -> tuple[nn.Module, Tensor]:
    options, side = _size("torchvision", name)
    return _made_by_torchvision(name, **options), _few(samples, side)


def _timm(name: str, samples: int) -> tuple[nn.Module, Tensor]:
    options, side = _size("timm", name)
    return _made_by_timm(name, **options), _few(samples, side)


def _made_by_torchvision(name: str, **options: int) -> nn.Module:
    import torchvision

    init = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **init, **options)


def _made_by_timm(name: str, **options: int) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


@lru_cache
def _size(kind: str, name: str) -> tuple[dict[str, int], int]:
    """The smallest side of images that a network takes, and how to make it so. No random number is drawn."""
    with torch.random.fork_rng(), torch.no_grad():
        return _smallest(kind, name)


def _smallest(kind: str, name: str) -> tuple[dict[str, int], int]:
    """As it is, or made for this side."""
    made, argument = {"torchvision": (_made_by_torchvision, "image_size"), "timm": (_made_by_timm, "img_size")}[kind]
    usual = 299 if name == "inception_v3" else 224
    for options in ({}, *({argument: side} for side in SMALL)):
        try:
            model = made(name, **options)
        except Exception:  # it has no such argument, or is not made for this size
            continue
        if not options:
            usual = getattr(model, "default_cfg", {}).get("input_size", (3, usual, usual))[-1]
        for side in options.values() or SMALL:
            if _takes(model, side):
                return options, side
    return {}, usual


def _few(samples: int, side: int) -> Tensor:
    """Images; half as many where they are large."""
    return images(samples if side <= SMALL[-1] else samples // 2, side)


def _takes(model: nn.Module, side: int) -> bool:
    try:
        for mode in (True, False):
            model.train(mode)(torch.zeros(2, 3, side, side))
    except Exception:  # whatever a network raises that is made for another size
        return False
    return True


def labels(samples: int) -> Tensor:
    """The classes of so many samples; few samples have fewer classes, because each must have five."""
    return torch.arange(samples) % min(CLASSES, samples // 5)


def images(samples: int, *sides: int, channels: int = 3) -> Tensor:
    """Noise around a mean that tells the class, so that something can be learned."""
    sides = sides * 2 if len(sides) == 1 else sides
    means = (torch.arange(samples) % CLASSES).view(-1, *[1] * (len(sides) + 1)).float() - 1.5
    return means + torch.randn(samples, channels, *sides)


def tokens(samples: int, length: int = 12) -> Tensor:
    """Sequences of words, most of which come from the part of the vocabulary that belongs to the class."""
    return torch.randint(1, 10, (samples, length)) + 10 * (torch.arange(samples) % CLASSES)[:, None]


class Pooled(nn.Module):
    """An encoder of sequences of vectors, the mean over the steps, and a linear layer."""

    def __init__(self, encoder: nn.Module, width: int, words: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 16) if words else nn.Identity()
        self.encoder, self.head = encoder, nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden = self.encoder(self.embedding(inputs))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.head(hidden.mean(1))


class Masked(nn.Module):
    """A transformer over words with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 16, padding_idx=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        """Logits."""
        hidden = self.encoder(self.embedding(words), src_key_padding_mask=words == 0)
        return self.head(hidden[:, 0])


class Graph(nn.Module):
    """Two graph convolutions on one fixed graph with a sparse adjacency."""

    def __init__(self) -> None:
        super().__init__()
        adjacency = torch.eye(9) + torch.eye(9).roll(1, 0) + torch.eye(9).roll(-1, 0)
        self.register_buffer("adjacency", (adjacency / 3).to_sparse())
        self.first, self.second, self.head = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        """Logits."""
        for layer in (self.first, self.second):
            mixed = torch.sparse.mm(self.adjacency, nodes.transpose(0, 1).flatten(1))
            nodes = torch.relu(layer(mixed.view(9, len(nodes), -1).transpose(0, 1)))
        return self.head(nodes.mean(1))


def _convolutions(convolution: type[nn.Module], norm: type[nn.Module], pool: nn.Module) -> nn.Module:
    layers = [
        convolution(3, 16, 3),
        norm(16),
        nn.ReLU(),
        convolution(16, 16, 3),
        norm(16),
        nn.ReLU(),
        pool,
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def _dense(*norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), *norm, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _vectors(samples: int) -> Tensor:
    return images(samples, 4, channels=1).flatten(1)


def _padded(samples: int) -> Tensor:
    words = tokens(samples)
    return words.where(torch.arange(12) < torch.randint(4, 13, (samples, 1)), 0)


def _series(samples: int) -> Tensor:
    return images(samples, 12, 16, channels=1)[:, 0]


_OWN: list[tuple[str, str, Callable[[int], tuple[nn.Module, Tensor]]]] = [
    ("text", "bag of words", lambda n: (Pooled(nn.Identity(), 16), tokens(n))),
    (
        "text",
        "convolutions over words",
        lambda n: (
            nn.Sequential(nn.Embedding(60, 12), nn.Conv1d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(160, CLASSES)),
            tokens(n),
        ),
    ),
    ("text", "transformer with padding", lambda n: (Masked(), _padded(n))),
    ("recurrent", "LSTM over words", lambda n: (Pooled(nn.LSTM(16, 16, batch_first=True), 16), tokens(n))),
    (
        "recurrent",
        "GRU over vectors",
        lambda n: (Pooled(nn.GRU(16, 16, batch_first=True), 16, words=False), _series(n)),
    ),
    (
        "recurrent",
        "bidirectional LSTM, two layers",
        lambda n: (
            Pooled(nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True, dropout=0.1), 16, words=False),
            _series(n),
        ),
    ),
    (
        "1-d",
        "convolutions over a signal",
        lambda n: (_convolutions(nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d(1)), images(n, 8).flatten(2)),
    ),
    (
        "2-d",
        "convolutions over small images",
        lambda n: (_convolutions(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d(1)), images(n, 12)),
    ),
    (
        "3-d",
        "convolutions over a volume",
        lambda n: (_convolutions(nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d(1)), images(n, 8, 8, 8)),
    ),
    ("graph", "graph convolutions, sparse adjacency", lambda n: (Graph(), images(n, 9, 3, channels=1)[:, 0])),
    ("tabular", "dense", lambda n: (_dense(), _vectors(n))),
    ("tabular", "dense, BatchNorm and dropout", lambda n: (_dense(nn.BatchNorm1d(32), nn.Dropout(0.2)), _vectors(n))),
    ("tabular", "linear", lambda n: (nn.Linear(16, CLASSES), _vectors(n))),
]
