"""The zoo's model families: NiN-style CNN, VGG, ResNet, MLP, a small vision transformer, MobileNet-like."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Family = Literal["cnn", "vgg", "resnet", "mlp", "vit", "mobilenet"]
FAMILIES: tuple[Family, ...] = ("cnn", "vgg", "resnet", "mlp", "vit")
ALL_FAMILIES: tuple[Family, ...] = (*FAMILIES, "mobilenet")
_GROUPS = 4


def build(
    family: str,
    channels: int,
    side: int,
    classes: int,
    width: int,
    depth: int,
    dropout: float,
    norm: bool,
    group_norm: bool = False,
) -> nn.Module:
    """A classifier of images (batch, channels, side, side) that returns logits.

    `width` is the channels of the first stage, an eighth of the MLP's hidden units, or half the ViT's embedding;
    `depth` the blocks per stage; `norm` asks for batch normalisation (the ViT always has layer normalisation),
    `group_norm` for group normalisation instead, in the ResNet and the MobileNet.
    """
    if family == "cnn":
        return network_in_network(channels, classes, width, depth, dropout, norm)
    if family == "vgg":
        return vgg(channels, side, classes, width, depth, dropout, norm)
    if family == "resnet":
        return ResNet(channels, classes, width, depth, dropout, group_norm)
    if family == "mobilenet":
        return mobilenet(channels, classes, width, depth, dropout, group_norm)
    if family == "mlp":
        return mlp(channels * side * side, classes, 8 * width, depth + 1, dropout, norm)
    return VisionTransformer(channels, side, classes, 2 * width, depth + 1, dropout)


def network_in_network(
    channels: int, classes: int, width: int, depth: int, dropout: float, norm: bool
) -> nn.Sequential:
    """Three stages of a 3 x 3 convolution and `depth - 1` pointwise ones, then pointwise logits, averaged."""
    layers: list[nn.Module] = []
    for stage in range(3):
        width_here = width * (1 + stage)
        for block in range(depth):
            layers += _conv(channels, width_here, 3 if block == 0 else 1, norm)
            channels = width_here
        layers += [nn.MaxPool2d(2)] if stage < 2 else []
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg(channels: int, side: int, classes: int, width: int, depth: int, dropout: float, norm: bool) -> nn.Sequential:
    """Two stages of 3 x 3 convolutions with pooling, then two dense layers."""
    layers: list[nn.Module] = []
    for stage in range(2):
        for _ in range(depth):
            layers += _conv(channels, width * (1 + stage), 3, norm)
            channels = width * (1 + stage)
        layers.append(nn.MaxPool2d(2))
    flat = channels * (side // 4) ** 2
    head = [nn.Flatten(), nn.Linear(flat, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, classes)]
    return nn.Sequential(*layers, *head)


def mlp(inputs: int, classes: int, width: int, depth: int, dropout: float, norm: bool) -> nn.Sequential:
    """`depth` hidden layers of `width` units."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def mobilenet(
    channels: int, classes: int, width: int, depth: int, dropout: float, group_norm: bool = False
) -> nn.Sequential:
    """Three stages of inverted residual blocks with depthwise convolutions."""
    stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), _normalisation(width, group_norm), nn.ReLU()]
    blocks, inner = [], width
    for stage in range(3):
        for block in range(depth):
            stride = 2 if stage and block == 0 else 1
            blocks.append(InvertedResidual(inner, width * 2**stage, stride, group_norm))
            inner = width * 2**stage
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(inner, classes)]
    return nn.Sequential(*stem, *blocks, *head)


class InvertedResidual(nn.Module):
    """Widen by pointwise, filter by depthwise, narrow by pointwise convolutions; a shortcut where shapes agree."""

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
    """Three stages of basic residual blocks with batch (or group) normalisation."""

    def __init__(
        self, channels: int, classes: int, width: int, depth: int, dropout: float = 0.0, group_norm: bool = False
    ) -> None:
        super().__init__()
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, _normalisation(width, group_norm), nn.ReLU())
        stages = []
        inner = width
        for stage in range(3):
            outer = width * 2**stage
            blocks = [
                ResidualBlock(inner if b == 0 else outer, outer, 2 if stage and b == 0 else 1, group_norm)
                for b in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            inner = outer
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(inner, classes))

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
    """Patches of a quarter of the side, pre-norm encoder blocks, mean over tokens."""

    def __init__(self, channels: int, side: int, classes: int, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        patch = max(side // 4, 1)
        width = 4 * max(width // 4, 1)
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

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


def _conv(channels: int, width: int, kernel: int, norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=not norm)
    return [convolution, *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()]


def _normalisation(width: int, group_norm: bool) -> nn.Module:
    return nn.GroupNorm(_GROUPS, width) if group_norm else nn.BatchNorm2d(width)
