from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import GapError, LayerError, LogitsError
from tests import networks
from tests.probes import layout_of, probing, taps_of

Factory = Callable[[], nn.Module]


def residual_blocks() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(networks.CHANNELS, 6, 3, padding=1),
        *(networks.ResidualBlock(6, 6, 1) for _ in range(5)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, networks.CLASSES),
    )


def dropout_behind_a_stage() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


class MeanOfLogits(nn.Module):
    """The logits are means over a sequence; before them the steps come first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(24, 12), nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        steps = torch.relu(self.embed(images.transpose(1, 2).flatten(2))).transpose(0, 1)
        return self.head(steps).mean(dim=0)


class Scaled(nn.Module):
    """Has a parameter of its own, so that the depth grows once more when it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))
        self.first, self.second = nn.Linear(192, 16), nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(images.flatten(1))) * self.scale)


class FunctionalEnd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU()), nn.Flatten())
        self.head = nn.Linear(8 * 4 * 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(torch.relu(self.stem(images))))


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 16), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(input=torch.relu(self.first(input=images.flatten(1))))


class FrozenBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = networks.mlp([16, 4]), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(images)
        return self.head(features)


def sequence_first() -> nn.Module:
    return networks.Recurrent(batch_first=False)


def parametrized() -> nn.Module:
    model = networks.mlp()
    for module in list(model)[3:]:
        if isinstance(module, nn.Linear):
            nn.utils.parametrizations.weight_norm(module)
    return model


# Depth counts the calls of modules with parameters; h1 and h2 are nearest to 1/3 and 2/3 of all, h3 is the last layer's
# input.
CHOSEN: dict[str, tuple[Factory, dict[str, str]]] = {
    # 4 layers: the ReLUs after the first, second and third.
    "mlp": (networks.mlp, {"h1": "2", "h2": "4", "h3": "6"}),
    # 4 layers, 1.3 and 2.7: the first ReLU; the second has depth 2, the third 3 and so has its pooled form: h3.
    "cnn": (networks.cnn, {"h1": "1", "h2": "4", "h3": "8"}),
    # 7 layers, 2.3 and 4.7: the ReLU behind the first batch norm (2); the third convolution (5).
    "batch norm": (networks.cnn_with_batch_norm, {"h1": "2", "h2": "6", "h3": "10"}),
    # 4 layers; the outermost module that ends with the tensor gives the name.
    "nested": (networks.Nested, {"h1": "stem", "h2": "body.0", "h3": "head.0"}),
    # 10 layers, 3.3 and 6.7: the second convolution (3) and the fourth (7).
    "VGG": (networks.VGG, {"h1": "features.3", "h2": "features.10", "h3": "classifier.1"}),
    # 16 layers, 5.3 and 10.7: the first block ends at 6, the second, which projects its shortcut, at 11.
    "ResNet": (networks.ResNet, {"h1": "layer1", "h2": "layer2", "h3": "fc:in"}),
    "only ends of residual blocks": (residual_blocks, {"h1": "2", "h2": "3", "h3": "7"}),
    # 13 layers, 4.3 and 8.7: between attention and MLP of the first block (3) and of the second (8).
    "transformer": (
        networks.VisionTransformer,
        {"h1": "blocks.0.norm2:in", "h2": "blocks.1.norm2:in", "h3": "head:in"},
    ),
    "reused": (networks.Reused, {"h1": "shared#0:in", "h2": "shared#1:in", "h3": "head:in"}),
    # 3 layers: the embedding (1); the mean over time follows the LSTM (2), which is h3 already.
    "recurrent": (networks.Recurrent, {"h1": "embed", "h3": "head:in"}),
    "sequence first": (sequence_first, {"h1": "embed", "h3": "head:in"}),
    "functional stages": (networks.FunctionalStages, {"h1": "conv2:in", "h2": "conv3:in", "h3": "fc:in"}),
    "functional end, named by the outermost module that takes it": (FunctionalEnd, {"h1": "body:in", "h3": "body"}),
    "tokens start at their embedding": (networks.Tokens, {"h1": "hidden:in", "h3": "head:in"}),
    "linear": (networks.linear, {}),
    "one hidden layer": (lambda: networks.mlp([16]), {"h3": "2"}),
    "two hidden layers": (lambda: networks.mlp([16, 16]), {"h1": "2", "h3": "4"}),
    "dropout does not hide a name": (dropout_behind_a_stage, {"h3": "2"}),
    "mean of logits": (MeanOfLogits, {}),
    "not one tensor twice": (lambda: nn.Sequential(Scaled(), nn.Linear(16, 4)), {"h1": "0.second:in", "h3": "0"}),
    "inputs by keyword": (ByKeyword, {"h3": "head:in"}),
    "frozen backbone": (FrozenBackbone, {"h3": "head:in"}),
    "parametrizations are no layers": (parametrized, {"h1": "2", "h2": "4", "h3": "6"}),
}


@pytest.mark.parametrize(("factory", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_hidden_layers_stand_at_thirds_of_the_depth_and_before_the_last_layer(
    factory: Factory, expected: dict[str, str]
) -> None:
    inputs = networks.token_ids(9) if factory is networks.Tokens else networks.images(9)
    assert taps_of(networks.made(factory), inputs) == expected


@pytest.mark.parametrize(
    ("factory", "layers", "expected"),
    [
        (networks.ResNet, ["bn1", "layer1.conv2:in", "layer3"], ["bn1", "layer1.conv2:in", "layer3"]),
        (networks.ResNet, ["layer2"], ["layer2"]),
        (networks.Reused, ["shared", "shared#1", "shared#1:in"], ["shared#0", "shared#1", "shared#1:in"]),
    ],
)
def test_layers_can_be_named(factory: Factory, layers: list[str], expected: list[str]) -> None:
    named = dict(zip(("h1", "h2", "h3"), expected, strict=False))
    assert taps_of(networks.made(factory), networks.images(8), layers) == named


REFUSED: list[tuple[Factory, Any, type[GapError], str]] = [
    *(
        (
            networks.Reused,
            ["head", name],
            LayerError,
            rf"layer h2: got {name!r}; expected a module that the forward calls: first, shared, head. "
            rf"{spelling}Append ':in'",
        )
        for name, spelling in (
            ("nowhere", "Check the spelling. "),
            ("shaerd", r"Did you mean 'shared'\? "),
            ("shared#2", ""),
            ("shared#second", ""),
            ("shared#1#1", ""),
            ("", "Check the spelling. "),
            ("head:out", ".*"),
        )
    ),
    *(
        (networks.ResNet, names, LayerError, "one to three module names, for h1, h2 and h3")
        for names in ("layer1", [], ["a", "b", "c", "d"], [1], 7)
    ),
    (sequence_first, ["lstm"], LayerError, r"'lstm' of shape \(8, 9, 12\) for 9 examples.* batch_first=True"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), None, LogitsError, "one logit per class"),
]


@pytest.mark.parametrize(("factory", "layers", "error", "message"), REFUSED)
def test_what_cannot_be_watched_is_refused(factory: Factory, layers: Any, error: type[GapError], message: str) -> None:
    with pytest.raises(error, match=message):
        taps_of(networks.made(factory), networks.images(9), layers)


def test_of_many_modules_the_first_are_named() -> None:
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(192, 192) for _ in range(30)), nn.Linear(192, 2))
    with pytest.raises(LayerError, match=r"calls: 0, 1, 2, .*, 19, 12 more\. Check the spelling\."):
        taps_of(model, networks.images(9), ["nowhere"])


def read_by_taps(model: nn.Module, images: Tensor, layers: list[str] | None = None) -> dict[str, Tensor]:
    with probing(model, images, torch.arange(len(images)) % 2, layers=layers) as probe, probe.tapped() as caught:
        list(probe.forwards())
    return caught


def of_resnet(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    h1 = model.layer1(torch.relu(model.bn1(model.conv1(images))))
    h2 = model.layer2(h1)
    return {"h1": h1, "h2": h2, "h3": model.layer3(h2).mean(dim=(2, 3))}


def of_transformer(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    tokens = model.patches(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.class_token.expand(8, -1, -1), tokens], dim=1) + model.position
    first, second = model.blocks
    h1 = tokens + first.attention(*[first.norm1(tokens)] * 3)[0]
    tokens = h1 + first.mlp(first.norm2(h1))
    h2 = tokens + second.attention(*[second.norm1(tokens)] * 3)[0]
    return {"h1": h1, "h2": h2, "h3": model.norm(h2 + second.mlp(second.norm2(h2)))[:, 0]}


def of_keywords(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return {"h3": torch.relu(model.first(images.flatten(1)))}


def of_lstm(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    outputs, _ = model.lstm(model.embed(images.transpose(1, 2).flatten(2)))  # the first tensor of its output
    return {"h1": outputs}


@pytest.mark.parametrize(
    ("factory", "layers", "expected"),
    [
        (networks.ResNet, None, of_resnet),
        (networks.VisionTransformer, None, of_transformer),
        (ByKeyword, None, of_keywords),
        (networks.Recurrent, ["lstm"], of_lstm),
    ],
)
def test_taps_read_what_the_network_computes(factory: Factory, layers: list[str] | None, expected: Any) -> None:
    model, images = networks.made(factory).eval(), networks.images(8)
    torch.testing.assert_close(read_by_taps(model, images, layers), expected(model, images))


@pytest.mark.parametrize("layers", [None, ["features.1", "features.4:in", "features.11"]])
def test_an_inplace_follower_does_not_change_what_is_read(layers: list[str] | None) -> None:
    images, values = networks.images(20), []
    for inplace in (True, False):
        model = networks.made(lambda inplace=inplace: networks.VGG(inplace))
        with probing(model, images, torch.arange(20) % 4, layers=layers) as probe, probe.tapped() as caught:
            ((_, logits),) = probe.forwards()
            values.append([logits, *(caught[tap.layer].clone() for tap in probe.layout.taps)])
        assert any(tap.clone for tap in probe.layout.taps) == (inplace and layers is not None)
    assert len(values[0]) == 4
    assert all(torch.equal(inplace, plain) for inplace, plain in zip(*values, strict=True))


def test_called_modules_know_their_input_and_what_came_before() -> None:
    ran = {met.module: met for met in layout_of(networks.made(networks.cnn_with_batch_norm), networks.images(8)).called}
    assert ran["0"].input_shape == (3, 8, 8)
    assert ran["0"].after is None
    assert ran["4"].after == "3"
    assert ran["4"].input_shape == (8, 8, 8)
    reused = {met.module: met.calls for met in layout_of(networks.made(networks.Reused), networks.images(8)).called}
    assert reused == {"first": 1, "shared": 2, "head": 1}
    assert [met.module for met in layout_of(ByKeyword(), networks.images(8)).called] == ["first", "head"]


def test_hooks_are_removed() -> None:
    model = networks.made(networks.ResNet)
    layout_of(model, networks.images(8))
    with pytest.raises(LogitsError):
        layout_of(nn.Sequential(model, nn.Unflatten(1, (2, 2))), networks.images(8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
