from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import LayerError, LogitsError
from tests import networks
from tests.probes import layout_of, probing, taps_of

Factory = Callable[[], nn.Module]

# Depth counts parameterised module calls; h1 and h2 are nearest to 1/3 and 2/3 of all, h3 is the last layer's input.
CHOSEN: dict[Factory, dict[str, str]] = {
    # 4 layers: the ReLUs after the first, second and third.
    networks.mlp: {"h1": "2", "h2": "4", "h3": "6"},
    # 4 layers, 1.3 and 2.7: the first ReLU; the second has depth 2, the third 3 and so has its pooled form: h3.
    networks.cnn: {"h1": "1", "h2": "4", "h3": "8"},
    # 7 layers, 2.3 and 4.7: the ReLU behind the first batch norm (2); the third convolution (5).
    networks.cnn_with_batch_norm: {"h1": "2", "h2": "6", "h3": "10"},
    # 4 layers; the outermost module that ends with the tensor gives the name.
    networks.Nested: {"h1": "stem", "h2": "body.0", "h3": "head.0"},
    # 10 layers, 3.3 and 6.7: the second convolution (3) and the fourth (7).
    networks.VGG: {"h1": "features.3", "h2": "features.10", "h3": "classifier.1"},
    # 16 layers, 5.3 and 10.7: the first block ends at 6, the second, which projects its shortcut, at 11.
    networks.ResNet: {"h1": "layer1", "h2": "layer2", "h3": "fc:in"},
    # 13 layers, 4.3 and 8.7: between attention and MLP of the first block (3) and of the second (8).
    networks.VisionTransformer: {"h1": "blocks.0.norm2:in", "h2": "blocks.1.norm2:in", "h3": "head:in"},
    networks.Reused: {"h1": "shared#0:in", "h2": "shared#1:in", "h3": "head:in"},
    # 3 layers: the embedding (1); the mean over time follows the LSTM (2), which is h3 already.
    networks.Recurrent: {"h1": "embed", "h3": "head:in"},
    networks.FunctionalStages: {"h1": "conv2:in", "h2": "conv3:in", "h3": "fc:in"},
}


@pytest.mark.parametrize("factory", CHOSEN, ids=lambda factory: factory.__name__)
def test_hidden_layers_stand_at_thirds_of_the_depth_and_before_the_last_layer(factory: Factory) -> None:
    assert taps_of(networks.made(factory), networks.images(8)) == CHOSEN[factory]


def test_token_networks_start_at_their_embedding() -> None:
    assert taps_of(networks.made(networks.Tokens), networks.token_ids(8)) == {"h1": "hidden:in", "h3": "head:in"}


def test_small_networks_have_fewer_layers() -> None:
    assert taps_of(networks.linear(), networks.images(8)) == {}
    assert taps_of(networks.mlp([16]), networks.images(8)) == {"h3": "2"}
    assert taps_of(networks.mlp([16, 16]), networks.images(8)) == {"h1": "2", "h3": "4"}


def read_by_taps(model: nn.Module, images: Tensor, layers: list[str] | None = None) -> dict[str, Tensor]:
    with probing(model, images, torch.arange(len(images)) % 2, layers=layers) as probe, probe.tapped() as caught:
        probe.logits_on(probe.batches[0].content, len(images))
    return caught


def test_taps_of_a_residual_network_read_the_ends_of_its_blocks() -> None:
    model, images = networks.made(networks.ResNet).eval(), networks.images(8)
    h1 = model.layer1(torch.relu(model.bn1(model.conv1(images))))
    h2 = model.layer2(h1)
    expected = {"h1": h1, "h2": h2, "h3": model.layer3(h2).mean(dim=(2, 3))}
    torch.testing.assert_close(read_by_taps(model, images), expected)


def test_taps_of_a_transformer_read_its_residual_stream() -> None:
    model, images = networks.made(networks.VisionTransformer).eval(), networks.images(8)
    tokens = model.patches(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.class_token.expand(8, -1, -1), tokens], dim=1) + model.position
    first, second = model.blocks
    h1 = tokens + first.attention(*[first.norm1(tokens)] * 3)[0]
    tokens = h1 + first.mlp(first.norm2(h1))
    h2 = tokens + second.attention(*[second.norm1(tokens)] * 3)[0]
    expected = {"h1": h1, "h2": h2, "h3": model.norm(h2 + second.mlp(second.norm2(h2)))[:, 0]}
    torch.testing.assert_close(read_by_taps(model, images), expected)


def test_the_inside_of_a_residual_block_is_never_chosen() -> None:
    model = nn.Sequential(
        nn.Conv2d(networks.CHANNELS, 6, 3, padding=1),
        *(networks.ResidualBlock(6, 6, 1) for _ in range(5)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, networks.CLASSES),
    )
    assert taps_of(networks.made(lambda: model), networks.images(8)) == {"h1": "2", "h2": "3", "h3": "7"}


def test_dropout_behind_a_stage_does_not_hide_its_name() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    assert taps_of(model, networks.images(8)) == {"h3": "2"}


def test_layers_can_be_named() -> None:
    model = networks.made(networks.ResNet)
    named = taps_of(model, networks.images(8), ["bn1", "layer1.conv2:in", "layer3"])
    assert named == {"h1": "bn1", "h2": "layer1.conv2:in", "h3": "layer3"}
    assert taps_of(model, networks.images(8), ["layer2"]) == {"h1": "layer2"}


def test_a_reused_module_is_named_by_its_call() -> None:
    model = networks.made(networks.Reused)
    named = taps_of(model, networks.images(8), ["shared", "shared#1", "shared#1:in"])
    assert named == {"h1": "shared#0", "h2": "shared#1", "h3": "shared#1:in"}


@pytest.mark.parametrize("name", ["nowhere", "shared#2", "shared#second", "shared#1#1", "", "head:out"])
def test_an_unknown_name_lists_the_modules_that_ran(name: str) -> None:
    with pytest.raises(LayerError, match="expected a module that the forward calls: first, head, shared") as error:
        taps_of(networks.made(networks.Reused), networks.images(8), ["head", name])
    assert f"layer h2: got {name!r}" in str(error.value)
    assert ":in" in str(error.value)


@pytest.mark.parametrize("names", ["layer1", [], ["a", "b", "c", "d"]])
def test_one_to_three_names_are_expected(names: list[str]) -> None:
    with pytest.raises(LayerError, match="one to three module names, for h1, h2 and h3"):
        taps_of(networks.made(networks.ResNet), networks.images(8), names)


def test_outputs_that_are_not_logits_are_refused() -> None:
    with pytest.raises(LogitsError, match="one logit per class"):
        taps_of(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), networks.images(8))


def test_only_tensors_with_the_examples_first_are_chosen() -> None:
    model, images = networks.made(lambda: networks.Recurrent(batch_first=False)), networks.images(9)
    assert taps_of(model, images) == {"h1": "embed", "h3": "head:in"}
    with pytest.raises(LayerError, match=r"'lstm' of shape \(8, 9, 12\) for 9 examples.* batch_first=True"):
        taps_of(model, images, ["lstm"])


def test_no_layer_before_the_logits_where_they_are_means_over_a_sequence() -> None:
    class ByStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(24, 12), nn.Linear(12, 4)

        def forward(self, images: Tensor) -> Tensor:
            steps = torch.relu(self.embed(images.transpose(1, 2).flatten(2))).transpose(0, 1)
            return self.head(steps).mean(dim=0)

    assert taps_of(ByStep(), networks.images(9)) == {}


def test_one_tensor_is_not_two_layers() -> None:
    class Encoder(nn.Module):
        """Has a parameter of its own, so that the depth grows once more when it returns."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))
            self.first, self.second = nn.Linear(192, 16), nn.Linear(16, 16)

        def forward(self, images: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(images.flatten(1))) * self.scale)

    model = nn.Sequential(Encoder(), nn.Linear(16, 4))
    assert taps_of(model, networks.images(8)) == {"h1": "0.second:in", "h3": "0"}


def test_a_functional_end_is_named_by_the_outermost_module_that_takes_it() -> None:
    class Staged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            self.body = nn.Sequential(nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU()), nn.Flatten())
            self.head = nn.Linear(8 * 4 * 4, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(torch.relu(self.stem(images))))

    assert taps_of(Staged(), networks.images(8)) == {"h1": "body:in", "h3": "body"}


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 16), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.first(input=images.flatten(1)))
        return self.head(input=hidden)


def test_inputs_given_by_keyword_are_watched() -> None:
    model, images = ByKeyword(), networks.images(8)
    assert taps_of(model, images) == {"h3": "head:in"}
    assert [ran.module for ran in layout_of(model, images).ran] == ["first", "head"]
    torch.testing.assert_close(read_by_taps(model, images)["h3"], torch.relu(model.first(images.flatten(1))))


def test_a_frozen_backbone_keeps_its_last_layer() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = networks.made(lambda: networks.mlp([16, 4])), nn.Linear(4, 4)

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone(images)
            return self.head(features)

    assert taps_of(Frozen(), networks.images(8)) == {"h3": "head:in"}


def test_parametrizations_do_not_count_as_layers() -> None:
    model = networks.mlp()
    for module in list(model)[3:]:
        if isinstance(module, nn.Linear):
            nn.utils.parametrizations.weight_norm(module)
    assert taps_of(model, networks.images(8)) == CHOSEN[networks.mlp]


def test_modules_that_ran_know_their_input_and_what_came_before() -> None:
    ran = {met.module: met for met in layout_of(networks.made(networks.cnn_with_batch_norm), networks.images(8)).ran}
    assert ran["0"].input_shape == (3, 8, 8)
    assert ran["0"].after is None
    assert ran["4"].after == "3"
    assert ran["4"].input_shape == (8, 8, 8)
    reused = {met.module: met.calls for met in layout_of(networks.made(networks.Reused), networks.images(8)).ran}
    assert reused == {"first": 1, "shared": 2, "head": 1}


def test_hooks_are_removed() -> None:
    model = networks.made(networks.ResNet)
    layout_of(model, networks.images(8))
    with pytest.raises(LogitsError):
        layout_of(nn.Sequential(model, nn.Unflatten(1, (2, 2))), networks.images(8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("layers", [None, ["features.1", "features.4:in", "features.11"]])
def test_an_inplace_follower_does_not_change_what_is_read(layers: list[str] | None) -> None:
    images, values = networks.images(20), []
    for inplace in (True, False):
        model = networks.made(lambda inplace=inplace: networks.VGG(inplace))
        with probing(model, images, torch.arange(20) % 4, layers=layers) as probe, probe.tapped() as caught:
            logits = probe.logits_on(probe.batches[0].content, 20)
            values.append([logits, *(caught[tap.layer].clone() for tap in probe.layout.taps)])
        assert any(tap.clone for tap in probe.layout.taps) == (inplace and layers is not None)
    assert len(values[0]) == 4
    assert all(torch.equal(inplace, plain) for inplace, plain in zip(*values, strict=True))


def test_a_tuple_output_is_read_at_its_first_tensor() -> None:
    model, images = networks.made(networks.Recurrent), networks.images(8)
    outputs, _ = model.lstm(model.embed(images.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(read_by_taps(model, images, ["lstm"])["h1"], outputs)
