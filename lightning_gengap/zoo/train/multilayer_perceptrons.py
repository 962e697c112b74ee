"""Networks of dense layers on vectors and on images: MLP, residual MLP and mixer."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_gengap.zoo.train.shape import Shape


def mlp(shape: Shape) -> nn.Sequential:
    """`depth + 1` hidden layers of 8 `width` units."""
    inputs, units = shape.channels * shape.side**2, 8 * shape.width
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(shape.depth + 1):
        layers += [nn.Linear(inputs, units), *([nn.BatchNorm1d(units)] if shape.norm else []), nn.ReLU()]
        layers += [nn.Dropout(shape.dropout)] if shape.dropout else []
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, shape.classes))


class ResidualMLP(nn.Module):
    """A dense layer of 8 `width` units, `depth + 1` residual blocks, a normalisation and logits.

    It is the ResNet of Gorishniy et al. 2021 (arXiv 2106.11959) for tables.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        units = 8 * shape.width
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.side**2, units))
        self.blocks = nn.Sequential(*(ResidualDense(units, shape) for _ in range(shape.depth + 1)))
        self.head = nn.Sequential(*_norm(units, shape), nn.ReLU(), nn.Linear(units, shape.classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.head(self.blocks(self.stem(inputs)))


class ResidualDense(nn.Module):
    """A normalisation and two dense layers of the same width, beside a shortcut."""

    def __init__(self, units: int, shape: Shape) -> None:
        super().__init__()
        drop = [nn.Dropout(shape.dropout)] if shape.dropout else []
        first, second = nn.Linear(units, units), nn.Linear(units, units)
        self.body = nn.Sequential(*_norm(units, shape), first, nn.ReLU(), *drop, second)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.body(x)


class Mixer(nn.Module):
    """An MLP-mixer: `depth + 1` mixer blocks on patches, and the mean over them (Tolstikhin et al. 2021).

    Embeddings have `Shape.embedding` units, patches a side of `Shape.patch`. It always has layer normalisation.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        patch, units = shape.patch, shape.embedding
        tokens = (shape.side // patch) ** 2
        self.embed = nn.Conv2d(shape.channels, units, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock(tokens, units, shape.dropout) for _ in range(shape.depth + 1)))
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.head(self.norm(self.blocks(self.embed(images).flatten(2).transpose(1, 2))).mean(dim=1))


class MixerBlock(nn.Module):
    """Two dense layers across the patches, then two across the units, each behind a norm and beside a shortcut."""

    def __init__(self, tokens: int, units: int, dropout: float) -> None:
        super().__init__()
        self.patch_norm, self.unit_norm = nn.LayerNorm(units), nn.LayerNorm(units)
        self.across_patches, self.across_units = _two_layers(tokens, dropout), _two_layers(units, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Same shape."""
        tokens = tokens + self.across_patches(self.patch_norm(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.across_units(self.unit_norm(tokens))


def _two_layers(units: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(units, 2 * units), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * units, units))


def _norm(units: int, shape: Shape) -> list[nn.Module]:
    return [nn.BatchNorm1d(units)] if shape.norm else []
