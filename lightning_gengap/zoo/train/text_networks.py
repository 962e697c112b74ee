"""Networks on texts, which come as token ids (batch, words) with padding at the end."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_gengap.zoo.train.shape import Shape

PADDING = 0


def is_word(tokens: Tensor) -> Tensor:
    """True where there is a word, False at padding; same shape."""
    return tokens != PADDING


def mean_of_words(states: Tensor, words: Tensor) -> Tensor:
    """The mean of states (batch, words, units) over what is a word; zero for a text without any."""
    present = words.unsqueeze(2).to(states.dtype)
    return (states * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


class EmbeddingBag(nn.Module):
    """The mean of the words' embeddings of 2 `width` units, then `depth` dense layers of 4 `width` units."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner, units = 2 * shape.width, 4 * shape.width
        self.embed = nn.Embedding(shape.vocabulary, inner, padding_idx=PADDING)
        layers: list[nn.Module] = []
        for _ in range(shape.depth):
            layers += [nn.Linear(inner, units), nn.ReLU(), nn.Dropout(shape.dropout)]
            inner = units
        self.head = nn.Sequential(*layers, nn.Linear(inner, shape.classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.head(mean_of_words(self.embed(tokens), is_word(tokens)))


class TextConvolution(nn.Module):
    """Embeddings of 2 `width` units, `depth` convolutions over three words, and the largest over all words.

    After Kim 2014 (arXiv 1408.5882).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner, units = 2 * shape.width, 4 * shape.width
        self.embed = nn.Embedding(shape.vocabulary, inner, padding_idx=PADDING)
        layers: list[nn.Module] = []
        for _ in range(shape.depth):
            layers += [nn.Conv1d(inner, units, 3, padding=1), nn.ReLU()]
            inner = units
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(inner, shape.classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        states = self.convolutions(self.embed(tokens).transpose(1, 2))  # nowhere negative
        return self.head((states * is_word(tokens).unsqueeze(1)).amax(dim=2))


class TextLSTM(nn.Module):
    """Embeddings and `depth` LSTM layers of 2 `width` units, and the mean of the last one's states over the words."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        units = 2 * shape.width
        self.embed = nn.Embedding(shape.vocabulary, units, padding_idx=PADDING)
        self.lstm = nn.LSTM(units, units, shape.depth, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(units, shape.classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, classes). Padding stands at the end, where no word comes after it."""
        states: Tensor = self.lstm(self.embed(tokens))[0]
        return self.head(mean_of_words(states, is_word(tokens)))
