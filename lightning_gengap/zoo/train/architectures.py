"""The zoo's architectures. A new one is a builder, a row of `ARCHITECTURES` here, and its name in a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightning_gengap.zoo.train.attention_networks import TextTransformer, VisionTransformer
from lightning_gengap.zoo.train.convolutional_networks import ConvNeXt, ResNet, mobilenet, network_in_network, vgg
from lightning_gengap.zoo.train.multilayer_perceptrons import Mixer, ResidualMLP, mlp
from lightning_gengap.zoo.train.shape import Shape
from lightning_gengap.zoo.train.text_networks import EmbeddingBag, TextConvolution, TextLSTM


@dataclass(frozen=True)
class Architecture:
    """A row of the registry.

    Attributes:
        build: makes a classifier that returns logits.
        of: what it classifies: `images` (batch, channels, side, side), which an `mlp` takes as it takes `vectors`
            (batch, features), or `texts`, token ids (batch, words).
        group_norm: it takes group normalisation in place of batch normalisation.
        slow: plans train it at the smaller learning rate only.
    """

    build: Callable[[Shape], nn.Module]
    of: Literal["images", "vectors", "texts"] = "images"
    group_norm: bool = False
    slow: bool = False


ARCHITECTURES = {
    "cnn": Architecture(network_in_network),
    "vgg": Architecture(vgg),
    "resnet": Architecture(ResNet, group_norm=True),
    "mlp": Architecture(mlp, "vectors", slow=True),
    "vit": Architecture(VisionTransformer, slow=True),
    "mobilenet": Architecture(mobilenet, group_norm=True),
    "convnext": Architecture(ConvNeXt, slow=True),
    "mixer": Architecture(Mixer, slow=True),
    "residual_mlp": Architecture(ResidualMLP, "vectors"),
    "embedding_bag": Architecture(EmbeddingBag, "texts"),
    "text_convolution": Architecture(TextConvolution, "texts"),
    "text_lstm": Architecture(TextLSTM, "texts"),
    "text_transformer": Architecture(TextTransformer, "texts", slow=True),
}
