"""Tiny networks of every kind the package promises to watch, as factories; images are 3 x 8 x 8, classes are 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

CLASSES = 4
CHANNELS = 3
SIDE = 8
VOCABULARY = 11


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, CLASSES))


def mlp(hidden: Sequence[int] = (16, 16, 16)) -> nn.Sequential:
    widths = [CHANNELS * SIDE * SIDE, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def cnn_with_batch_norm(inplace: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in ((CHANNELS, 6), (6, 8), (8, 8)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class Nested(nn.Module):
    """Named stages inside stages, dropout at the end of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, 6, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(self._stage(6, 8), self._stage(8, 8))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 2 * 2, CLASSES))

    @staticmethod
    def _stage(inner: int, outer: int) -> nn.Sequential:
        block = nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        return nn.Sequential(block, nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)))


class VGG(nn.Module):
    """Convolution, batch norm and (in place, if asked) ReLU, twice per stage; two dense layers."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = CHANNELS
        for outer in (6, 8):
            for _ in range(2):
                layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace)]
                inner = outer
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(8 * 2 * 2, 12), nn.ReLU(inplace), nn.Linear(12, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the sum and its ReLU are functional, no module stands for them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of one block each, mean over the image, one dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = ResidualBlock(6, 6, 1)
        self.layer2 = ResidualBlock(6, 8, 2)
        self.layer3 = ResidualBlock(8, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Four patches and a class token, two pre-norm encoder blocks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, width, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.ModuleList([EncoderBlock(width), EncoderBlock(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Reused(nn.Module):
    """One dense layer called twice within a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS * SIDE * SIDE, 16)
        self.shared = nn.Linear(16, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.first(images.flatten(1)))
        x = torch.tanh(self.shared(x))
        return self.head(torch.tanh(self.shared(x)))


class Recurrent(nn.Module):
    """The rows of an image as a sequence through an LSTM, whose output is a tuple."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS * SIDE, 10)
        self.lstm = nn.LSTM(10, 12, batch_first=batch_first)
        self.head = nn.Linear(12, CLASSES)
        self._steps = 1 if batch_first else 0

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.transpose(1, 2).flatten(2))
        outputs, _ = self.lstm(rows if self._steps == 1 else rows.transpose(0, 1))
        return self.head(outputs.mean(dim=self._steps))


class FunctionalStages(nn.Module):
    """Every stage ends with a functional operation in the model's own forward: no module returns its end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.conv1(images))
        x = torch.relu(self.conv2(x))
        return self.fc(torch.relu(self.conv3(x)).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """A bag of words: integer inputs, one embedding, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.embedding(ids).mean(dim=1))))


def made(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network with seeded weights and batch norms that do something: statistics, weights and biases drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.track_running_stats:
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.3, 3)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, 0, 0.3)
    return model


def images(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = 40) -> tuple[Tensor, Tensor]:
    """Labelled images whose class shows in their mean colour."""
    targets = torch.arange(count) % CLASSES
    colours = torch.randn(CLASSES, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(5))
    return images(count) + 0.3 * colours[targets], targets


def token_ids(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(seed))


def mostly_right_targets(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model predicts in eval mode, but the runner-up for every fifth sample."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        ranked = model(inputs).argsort(dim=1, descending=True)
    for module, mode in modes:
        module.training = mode
    wrong = torch.arange(len(inputs)) % 5 == 0
    return torch.where(wrong, ranked[:, 1], ranked[:, 0])
