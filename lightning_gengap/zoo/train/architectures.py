"""The zoo's architectures. A new one is a builder and a row of `ARCHITECTURES` here, and its name in a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_GROUPS = 4


@dataclass(frozen=True)
class Shape:
    """What a network is built from: the form of its inputs and outputs, and its hyperparameters.

    Attributes:
        channels: of the input images.
        side: of the input images, in pixels.
        classes: number of logits.
        width: of the first stage; each builder says what it counts.
        depth: blocks per stage; each builder says how many layers that makes.
        dropout: probability with which a unit is dropped.
        norm: batch normalisation; only the CNN, the VGG and the MLP can do without.
        group_norm: group normalisation in place of batch normalisation, where `Architecture.group_norm` is true.
    """

    channels: int
    side: int
    classes: int
    width: int
    depth: int
    dropout: float = 0.0
    norm: bool = True
    group_norm: bool = False


def network_in_network(shape: Shape) -> nn.Sequential:
    """Network in network: three stages of `width`, 2 `width` and 3 `width` channels, then the mean of pointwise logits.

    A stage is a 3 x 3 convolution and `depth - 1` pointwise ones.
    """
    layers: list[nn.Module] = []
    inner = shape.channels
    for stage in range(3):
        outer = shape.width * (1 + stage)
        for block in range(shape.depth):
            layers += _convolution(inner, outer, 3 if block == 0 else 1, shape.norm)
            inner = outer
        layers += [nn.MaxPool2d(2)] if stage < 2 else []
        layers += [nn.Dropout(shape.dropout)] if shape.dropout else []
    return nn.Sequential(*layers, nn.Conv2d(inner, shape.classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg(shape: Shape) -> nn.Sequential:
    """Two stages of `depth` 3 x 3 convolutions with `width` and 2 `width` channels, then two dense layers."""
    layers: list[nn.Module] = []
    inner = shape.channels
    for stage in range(2):
        for _ in range(shape.depth):
            layers += _convolution(inner, shape.width * (1 + stage), 3, shape.norm)
            inner = shape.width * (1 + stage)
        layers.append(nn.MaxPool2d(2))
    flat, hidden = inner * (shape.side // 4) ** 2, 4 * shape.width
    head = [nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(hidden, shape.classes)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def mlp(shape: Shape) -> nn.Sequential:
    """`depth + 1` hidden layers of 8 `width` units."""
    inputs, units = shape.channels * shape.side**2, 8 * shape.width
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(shape.depth + 1):
        layers += [nn.Linear(inputs, units), *([nn.BatchNorm1d(units)] if shape.norm else []), nn.ReLU()]
        layers += [nn.Dropout(shape.dropout)] if shape.dropout else []
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, shape.classes))


def mobilenet(shape: Shape) -> nn.Sequential:
    """Three stages of `depth` inverted residual blocks with depthwise convolutions, `width` channels in the first."""
    inner = shape.width
    stem = nn.Conv2d(shape.channels, inner, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, _normalisation(inner, shape.group_norm), nn.ReLU()]
    for stage in range(3):
        outer = shape.width * 2**stage
        for block in range(shape.depth):
            layers.append(InvertedResidual(inner, outer, 2 if stage and block == 0 else 1, shape.group_norm))
            inner = outer
    return nn.Sequential(*layers, *_head(inner, shape))


class InvertedResidual(nn.Module):
    """A pointwise convolution widens, a depthwise one filters, a pointwise one narrows.

    There is a shortcut where the shapes agree.
    """

    def __init__(self, inner: int, outer: int, stride: int, group_norm: bool = False) -> None:
        super().__init__()
        wide = 2 * inner
        self.body = nn.Sequential(
            nn.Conv2d(inner, wide, 1, bias=False),
            _normalisation(wide, group_norm),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            _normalisation(wide, group_norm),
            nn.ReLU(),
            nn.Conv2d(wide, outer, 1, bias=False),
            _normalisation(outer, group_norm),
        )
        self.shortcut = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, or half the side and `outer` channels."""
        y = self.body(x)
        return y + x if self.shortcut else y


class ResNet(nn.Module):
    """Three stages of `depth` basic residual blocks, `width` channels in the first."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.width
        stem = nn.Conv2d(shape.channels, inner, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, _normalisation(inner, shape.group_norm), nn.ReLU())
        self.stages = nn.Sequential()
        for stage in range(3):
            outer = shape.width * 2**stage
            first = ResidualBlock(inner, outer, 2 if stage else 1, shape.group_norm)
            rest = [ResidualBlock(outer, outer, 1, shape.group_norm) for _ in range(shape.depth - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            inner = outer
        self.head = nn.Sequential(*_head(inner, shape))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.head(self.stages(self.stem(images)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, added before the last activation."""

    def __init__(self, inner: int, outer: int, stride: int, group_norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.first_norm = _normalisation(outer, group_norm)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.second_norm = _normalisation(outer, group_norm)
        same = stride == 1 and inner == outer
        projection = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), _normalisation(outer, group_norm))
        self.shortcut = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, or half the side and `outer` channels."""
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class VisionTransformer(nn.Module):
    """A small vision transformer: `depth + 1` encoder blocks on patches of a quarter of the side, mean over tokens.

    The embedding has 2 `width` units, rounded down to a multiple of the four heads. It always has layer normalisation.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        patch = max(shape.side // 4, 1)
        units = 4 * max(2 * shape.width // 4, 1)
        self.embed = nn.Conv2d(shape.channels, units, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (shape.side // patch) ** 2, units) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(units, shape.dropout) for _ in range(shape.depth + 1)))
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class EncoderBlock(nn.Module):
    """Self-attention with four heads and a two-layer MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Same shape."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.mlp_norm(tokens))


def _convolution(inner: int, outer: int, kernel: int, norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=not norm)
    return [convolution, *([nn.BatchNorm2d(outer)] if norm else []), nn.ReLU()]


def _normalisation(width: int, group_norm: bool) -> nn.Module:
    return nn.GroupNorm(_GROUPS, width) if group_norm else nn.BatchNorm2d(width)


def _head(inner: int, shape: Shape) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(shape.dropout), nn.Linear(inner, shape.classes)]


@dataclass(frozen=True)
class Architecture:
    """A row of the registry.

    Attributes:
        build: makes a classifier of images (batch, channels, side, side) that returns logits.
        group_norm: it takes group normalisation in place of batch normalisation.
        slow: plans train it at the smaller learning rate only.
    """

    build: Callable[[Shape], nn.Module]
    group_norm: bool = False
    slow: bool = False


ARCHITECTURES = {
    "cnn": Architecture(network_in_network),
    "vgg": Architecture(vgg),
    "resnet": Architecture(ResNet, group_norm=True),
    "mlp": Architecture(mlp, slow=True),
    "vit": Architecture(VisionTransformer, slow=True),
    "mobilenet": Architecture(mobilenet, group_norm=True),
}
