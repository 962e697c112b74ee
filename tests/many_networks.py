"""Classifiers of images 3 x 8 x 8 as people write them: heads, paths and outputs that hide layers from a watcher."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.shape import Shape
from tests import networks

PIXELS = 3 * 8 * 8


class Made(nn.Module):
    """Parts by name, and a forward that is given."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = run

    def forward(self, images: Tensor) -> Any:
        return self.run(self, images)


def convolution(inner: int = 3, outer: int = 8, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, **how)


def body(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution(), nn.ReLU(), convolution(8), nn.ReLU(), *more)


def tokens(images: Tensor) -> Tensor:
    """Rows as a sequence of 8 tokens of 24 numbers."""
    return images.transpose(1, 2).flatten(2)


class Weighted(nn.Module):
    """A parameter that functional operations use."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(*shape))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("bi,ij->bj", features, self.weight)


class Bare(nn.Module):
    """All weights are its own parameters, and all layers functional."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(0.1 * torch.randn(16, PIXELS)), nn.Parameter(0.1 * torch.randn(4, 16))

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(images.flatten(1), self.first)), self.second)


def tied() -> nn.Module:
    """An autoencoder whose decoder has the encoder's weights."""
    return Made(
        lambda self, x: self.head(torch.tanh(F.linear(torch.tanh(self.first(x.flatten(1))), self.first.weight.T))),
        first=nn.Linear(PIXELS, 16),
        head=nn.Linear(PIXELS, 4),
    )


def zoo(name: str) -> Callable[[], nn.Module]:
    return lambda: ARCHITECTURES[name].build(Shape(3, 8, 4, width=8, depth=1))


def encoder(batch_first: bool = True) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(24, 2, 32, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"zoo {name}": zoo(name) for name, one in ARCHITECTURES.items() if one.of != "texts"},
    "linear": networks.linear,
    "one hidden layer": lambda: networks.mlp((16,)),
    "two hidden layers": lambda: networks.mlp((16, 16)),
    "nested": networks.Nested,
    "vgg": networks.VGG,
    "vision transformer": networks.VisionTransformer,
    "functional stages": networks.FunctionalStages,
    "reused": networks.Reused,
    "bare parameters": Bare,
    "functional head": lambda: Made(
        lambda self, x: F.linear(self.body(x).mean((2, 3)), self.head.weight),
        body=body(),
        head=nn.Linear(8, 4, bias=False),
    ),
    "einsum head": lambda: Made(lambda self, x: self.head(self.body(x).mean((2, 3))), body=body(), head=Weighted(8, 4)),
    "einsum alone": lambda: Made(lambda self, x: self.head(x.flatten(1)), head=Weighted(PIXELS, 4)),
    "convolutional head": lambda: Made(
        lambda self, x: self.head(self.body(x)).mean((2, 3)), body=body(), head=nn.Conv2d(8, 4, 1)
    ),
    "global pool of one convolution": lambda: Made(lambda self, x: self.conv(x).mean((2, 3)), conv=convolution(3, 4)),
    "forward_head": lambda: Made(
        lambda self, x: self.head(self.drop(self.norm(self.stages(self.stem(x)).mean((2, 3))))),
        stem=nn.Sequential(convolution(), nn.BatchNorm2d(8)),
        stages=body(nn.Identity())[2:],
        norm=nn.LayerNorm(8),
        drop=nn.Dropout(0.1),
        head=nn.Linear(8, 4),
    ),
    "head then norm": lambda: nn.Sequential(body(), nn.Flatten(), nn.Linear(512, 4), nn.LayerNorm(4)),
    "prototypes": lambda: Made(
        lambda self, x: -torch.cdist(self.body(x).mean((2, 3)), self.prototypes.weight),
        body=body(),
        prototypes=nn.Embedding(4, 8),
    ),
    "tuple output of the body": lambda: Made(
        lambda self, x: self.head(self.lstm(tokens(x))[1][0][-1]),
        lstm=nn.LSTM(24, 12, batch_first=True),
        head=nn.Linear(12, 4),
    ),
    "sequence first": lambda: Made(
        lambda self, x: self.head(self.gru(tokens(x).transpose(0, 1))[0][-1]),
        gru=nn.GRU(24, 12, 2),
        head=nn.Linear(12, 4),
    ),
    "sequence first throughout": lambda: Made(
        lambda self, x: self.head(self.encoder(self.embed(tokens(x).transpose(0, 1)))).mean(0),
        embed=nn.Linear(24, 24),
        encoder=encoder(batch_first=False),
        head=nn.Linear(24, 4),
    ),
    "merged axes": lambda: Made(
        lambda self, x: self.head(self.embed(tokens(x).reshape(-1, 24)).relu()).view(len(x), 8, 4).mean(1),
        embed=nn.Linear(24, 12),
        head=nn.Linear(12, 4),
    ),
    "class token": lambda: Made(
        lambda self, x: self.head(
            self.encoder(torch.cat([self.token.weight.expand(len(x), 1, -1), tokens(x)], 1))[:, 0]
        ),
        token=nn.Embedding(1, 24),
        encoder=encoder(),
        head=nn.Linear(24, 4),
    ),
    "dictionary output": lambda: Made(lambda self, x: {"logits": self.net(x)}, net=networks.mlp()),
    "object output": lambda: Made(lambda self, x: SimpleNamespace(logits=self.net(x)), net=networks.mlp()),
    "channels last": lambda: Made(
        lambda self, x: self.net(x.to(memory_format=torch.channels_last)), net=networks.cnn()
    ).to(memory_format=torch.channels_last),
    "channel axis last": lambda: Made(
        lambda self, x: self.head(torch.relu(self.second(torch.relu(self.first(x.permute(0, 2, 3, 1))))).mean((1, 2))),
        first=nn.Linear(3, 8),
        second=nn.Linear(8, 8),
        head=nn.Linear(8, 4),
    ),
    "tied": tied,
    "checkpointed": lambda: Made(
        lambda self, x: self.head(checkpoint(self.body, x, use_reentrant=False).flatten(1)),
        body=body(),
        head=nn.Linear(512, 4),
    ),
    "checkpointed again": lambda: Made(
        lambda self, x: self.head(checkpoint(self.body, x, use_reentrant=True).flatten(1)),
        body=body(),
        head=nn.Linear(512, 4),
    ),
    "in place": lambda: nn.Sequential(
        convolution(), nn.ReLU(inplace=True), convolution(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(512, 4)
    ),
    "residual in place": lambda: Made(
        lambda self, x: self.head(self.first(x).add_(self.second(x)).relu_().flatten(1)),
        first=convolution(),
        second=convolution(),
        head=nn.Linear(512, 4),
    ),
    "skip to the head": lambda: Made(
        lambda self, x: self.head(torch.cat([x.flatten(1), self.second(self.first(x)).flatten(1)], 1)),
        first=convolution(),
        second=convolution(8),
        head=nn.Linear(PIXELS + 512, 4),
    ),
    "two branches": lambda: Made(
        lambda self, x: self.head(torch.cat([self.left(x).mean((2, 3)), self.right(x).mean((2, 3))], 1)),
        left=body(),
        right=body(),
        head=nn.Linear(16, 4),
    ),
    "dense connections": lambda: Made(
        lambda self, x: self.head(torch.cat([x, y := self.first(x), self.second(torch.cat([x, y], 1))], 1).flatten(1)),
        first=convolution(),
        second=convolution(11),
        head=nn.Linear(19 * 64, 4),
    ),
    "frozen body without gradients": lambda: Made(
        lambda self, x: self.head(torch.no_grad()(self.body)(x).flatten(1)), body=body(), head=nn.Linear(512, 4)
    ),
    "several heads": lambda: Made(
        lambda self, x: self.main(f := self.body(x).mean((2, 3))) + 0 * self.other(f),
        body=body(),
        main=nn.Linear(8, 4),
        other=nn.Linear(8, 4),
    ),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(convolution()), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
    ),
    "signs": lambda: Made(
        lambda self, x: self.head(torch.sign(self.body(x)).flatten(1)), body=body(), head=nn.Linear(512, 4)
    ),
    "bilinear head": lambda: Made(
        lambda self, x: self.head(f := self.body(x).mean((2, 3)), f), body=body(), head=nn.Bilinear(8, 8, 4)
    ),
    "transposed convolution": lambda: Made(
        lambda self, x: self.head(self.body(x)).mean((2, 3)), body=body(), head=nn.ConvTranspose2d(8, 4, 2)
    ),
    "attention pooling": lambda: Made(
        lambda self, x: self.head(self.attend(t := self.embed(tokens(x)), t, t)[0].mean(1)),
        embed=nn.Linear(24, 24),
        attend=nn.MultiheadAttention(24, 2, batch_first=True),
        head=nn.Linear(24, 4),
    ),
    "mixer": lambda: Made(
        lambda self, x: self.head((self.across(self.embed(tokens(x)).transpose(1, 2)).relu()).mean(2)),
        embed=nn.Linear(24, 12),
        across=nn.Linear(8, 8),
        head=nn.Linear(12, 4),
    ),
}
