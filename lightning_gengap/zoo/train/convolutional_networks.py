"""Convolutional networks on images, of five families."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gengap.zoo.train.shape import Shape

_GROUPS = 4


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


class ConvNeXt(nn.Module):
    """Three stages of `depth` ConvNeXt blocks on patches of 2 x 2, `width` channels in the first (Liu et al. 2022)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape.channels, shape.width, 2, 2), ChannelNorm(shape.width)]
        inner = shape.width
        for stage in range(3):
            outer = shape.width * 2**stage
            layers += [ChannelNorm(inner), nn.Conv2d(inner, outer, 2, 2)] if stage else []
            layers += [ConvNeXtBlock(outer) for _ in range(shape.depth)]
            inner = outer
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(inner), nn.Dropout(shape.dropout), nn.Linear(inner, shape.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.head(self.stages(images).mean(dim=(2, 3)))


class ConvNeXtBlock(nn.Module):
    """A depthwise 7 x 7 convolution, a norm, and two dense layers at every pixel, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.dense(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _convolution(inner: int, outer: int, kernel: int, norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=not norm)
    return [convolution, *([nn.BatchNorm2d(outer)] if norm else []), nn.ReLU()]


def _normalisation(width: int, group_norm: bool) -> nn.Module:
    return nn.GroupNorm(_GROUPS, width) if group_norm else nn.BatchNorm2d(width)


def _head(inner: int, shape: Shape) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(shape.dropout), nn.Linear(inner, shape.classes)]
