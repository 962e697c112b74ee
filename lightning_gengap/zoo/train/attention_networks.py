"""Small transformers on patches of images and on words of texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gengap.zoo.train.shape import Shape
from lightning_gengap.zoo.train.text_networks import PADDING, is_word, mean_of_words


class VisionTransformer(nn.Module):
    """A small vision transformer: `depth + 1` encoder blocks on patches, and the mean over them.

    Embeddings have `Shape.embedding` units, patches a side of `Shape.patch`. It always has layer normalisation.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        patch, units = shape.patch, shape.embedding
        self.embed = nn.Conv2d(shape.channels, units, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (shape.side // patch) ** 2, units) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(units, shape.dropout) for _ in range(shape.depth + 1)))
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class TextTransformer(nn.Module):
    """A small transformer: `depth` encoder blocks on words with learned positions, and the mean over the words.

    Embeddings have `Shape.embedding` units. Padding is not attended to.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        units = shape.embedding
        self.embed = nn.Embedding(shape.vocabulary, units, padding_idx=PADDING)
        self.position = nn.Parameter(torch.randn(1, shape.channels, units) * 0.02)
        self.blocks = nn.ModuleList(EncoderBlock(units, shape.dropout) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, shape.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        words = is_word(tokens)
        seen = words | (torch.arange(tokens.shape[1], device=tokens.device) == 0)  # lest a text without words is NaN
        states = self.embed(tokens) + self.position
        for block in self.blocks:
            states = block(states, ~seen)
        return self.head(mean_of_words(self.norm(states), words))


class EncoderBlock(nn.Module):
    """Self-attention with four heads and a two-layer MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Same shape; `padding` is True, shape (batch, tokens), where nothing is to be attended to."""
        normed = self.attention_norm(tokens)
        attended = self.attention(normed, normed, normed, key_padding_mask=padding, need_weights=False)[0]
        tokens = tokens + attended
        return tokens + self.mlp(self.mlp_norm(tokens))
