"""What a network of the zoo is built from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The form of a network's inputs and outputs, and its hyperparameters.

    Attributes:
        channels: of the input images; of vectors and texts the number of features, or of words.
        side: of the input images, in pixels; 1 for vectors and texts.
        classes: number of logits.
        width: of the first stage; each builder says what it counts.
        depth: blocks per stage; each builder says how many layers that makes.
        dropout: probability with which a unit is dropped.
        norm: batch normalisation; only the CNN, the VGG and the MLPs can do without.
        group_norm: group normalisation in place of batch normalisation, where `Architecture.group_norm` is true.
        vocabulary: of texts, the number of token ids; 0 for other inputs.
    """

    channels: int
    side: int
    classes: int
    width: int
    depth: int
    dropout: float = 0.0
    norm: bool = True
    group_norm: bool = False
    vocabulary: int = 0

    @property
    def patch(self) -> int:
        """The side of the patches that networks on patches see: 4 pixels from 32 on, a quarter of smaller images."""
        return 4 if self.side >= 32 else max(self.side // 4, 1)

    @property
    def embedding(self) -> int:
        """Units of a token: 2 `width`, rounded down to a multiple of four heads."""
        return 4 * max(2 * self.width // 4, 1)
