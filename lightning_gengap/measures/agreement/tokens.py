"""Naive Bayes on the tokens of a text, asked about each text as if it had not been there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement.answers import Said, best_of, calibrated
from lightning_gengap.measures.agreement.fitting import Judged, Price, number_of_others
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.nested import flat_tensors

A_TOKEN = 0.3e-6  # seconds that it takes to count one
SMOOTHINGS = (0.1, 0.3, 1.0)  # counts that are added to that of each token
NO_TOKENS = "no integers of shape (examples, length) go into an embedding"


def place_of_tokens(probe: Probe) -> int:
    """Where the tokens stand among the tensors of a batch: what an embedding is called on. One forward.

    Of several, such as positions and kinds beside the words, it is the one of which the fewest examples share a row.

    Raises:
        OtherKind: no tensor of the batch goes into an embedding as it is.
    """
    batch = probe.batches[0]
    held = flat_tensors(batch.content)
    if not any(map(_may_be_tokens, held)):
        raise OtherKind(NO_TOKENS)
    looked_up: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next(iter([*args, *kwargs.values()]), None)
        if isinstance(given, Tensor):
            looked_up.append(given.detach().clone())

    embeddings = [module for module in probe.modules.values() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    handles = [module.register_forward_pre_hook(look, with_kwargs=True) for module in embeddings]
    try:
        with torch.no_grad():
            if embeddings:
                probe.logits_on(batch.content, len(batch.targets))
    finally:
        for handle in handles:
            handle.remove()
    places = [
        place
        for tokens in looked_up
        for place, tensor in enumerate(held)
        if _may_be_tokens(tensor) and len(tensor) == len(batch.targets) and _same(tensor, tokens)
    ]
    if not places:
        raise OtherKind(NO_TOKENS)
    return max(places, key=lambda place: len(held[place].unique(dim=0)))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _may_be_tokens(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and not tensor.is_nested
    kinds = (torch.int64, torch.int32, torch.int16, torch.uint8)
    return plain and tensor.ndim == 2 and tensor.dtype in kinds


def tokens_at(batch: ProbeBatch, place: int) -> Tensor | None:
    """The tokens of a batch, int64 on the CPU, shape (examples, length); None where there are none."""
    held = flat_tensors(batch.content)
    return held[place].long().cpu() if place < len(held) and _may_be_tokens(held[place]) else None


@dataclass
class TokenBayes:
    """Leave-one-out naive Bayes on which tokens a text has.

    A text is the set of its tokens: how often one occurs in it, padding above all, does not matter. Only tokens of the
    judged texts count.

    Attributes:
        judged: the texts that it is asked about.
        place: of the tokens among the tensors of a batch.
        known: the tokens of the judged texts, ascending.
        own: which of them these have, see `_pairs`.
        counts: texts of each class with each token, shape (classes, tokens), float64.
        texts: of each class, shape (classes,).
        most, price: see `Fit`.
    """

    judged: Judged
    place: int
    known: Tensor
    own: tuple[Tensor, Tensor]
    counts: Tensor
    texts: Tensor
    most: int
    price: Price
    keeps: bool = True

    @classmethod
    def of(cls, probe: Probe, judged: Judged, kept: Mapping[str, Tensor]) -> TokenBayes:
        """The fit that goes on from what was `kept`.

        Raises:
            Undefined: there are no tokens, or it takes too much memory.
        """
        place = probe.cached(place_of_tokens)
        found = [tokens_at(batch, place) for batch in probe.batches]
        held = [tokens for tokens in found if tokens is not None]
        if len(held) < len(found):
            raise Undefined("batches differ in kind")
        longest = max(tokens.shape[1] for tokens in held)
        tokens = torch.cat([padded(part, longest) for part in held])[judged.rows]
        cost = longest * len(judged.classes)
        made = cls.on(tokens, judged, place, number_of_others(probe, judged, longest, cost))
        if kept:
            made.counts, made.texts = (kept[name].clone() for name in ("counts", "texts"))
        return made

    @classmethod
    def on(cls, tokens: Tensor, judged: Judged, place: int = 0, most: int = 0) -> TokenBayes:
        """Fitted to the judged texts, whose tokens are these, shape (texts, length)."""
        known, classes = tokens.unique(), len(judged.classes)
        words = f"the counts of {len(known)} tokens in {classes} classes"
        require_room(8 * 4 * classes * (len(known) + len(tokens)), words)
        counts, texts = (torch.zeros(classes, *more, dtype=torch.float64) for more in ((len(known),), ()))
        each = tokens.shape[1] * A_TOKEN
        price = Price(len(tokens) * each, each, len(SMOOTHINGS) * len(tokens) * each * classes)
        made = cls(judged, place, known, _pairs(tokens, known), counts, texts, most, price)
        made._count(made.own, judged.ranks)
        return made

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """The tokens of a batch."""
        return tokens_at(batch, self.place)

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Count the tokens of further texts; a rank of -1 is of none of the classes."""
        self._count(_pairs(rows, self.known), ranks)

    def said(self) -> Said:
        """The scores with the best smoothing, calibrated."""
        ranks = self.judged.ranks
        return Said(calibrated(best_of(self.scores(), ranks), ranks))

    def scores(self) -> list[Tensor]:
        """Log scores of each text by naive Bayes without it, for each smoothing; shape (texts, classes), float64.

        Without a text, the counts of its own class are less by its tokens: exactly those of a refit.
        """
        ranks = self.judged.ranks
        return [_without_each(self.counts, self.texts, self.own, ranks, smoothing) for smoothing in SMOOTHINGS]

    def kept(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": self.counts, "texts": self.texts}

    def _count(self, pairs: tuple[Tensor, Tensor], ranks: Tensor) -> None:
        """Add texts to the counts of their classes."""
        rows, places = pairs
        owners = ranks[rows]
        belongs = owners >= 0
        self.counts.index_put_((owners[belongs], places[belongs]), self.counts.new_ones(()), accumulate=True)
        self.texts += torch.bincount(ranks[ranks >= 0], minlength=len(self.texts))


def padded(tokens: Tensor, length: int) -> Tensor:
    """Tokens of this length; the first one of each text is repeated, which says nothing new of the text."""
    missing = length - tokens.shape[1]
    return torch.cat([tokens, tokens[:, :1].expand(-1, missing)], dim=1) if missing else tokens


def _pairs(tokens: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Which text has which known token, each pair once: the rows, and the places among the known."""
    places = torch.searchsorted(known, tokens).clamp(max=len(known) - 1)
    rows, columns = (known[places] == tokens).nonzero(as_tuple=True)
    pairs = (rows * len(known) + places[rows, columns]).unique()
    return pairs // len(known), pairs % len(known)


def _without_each(counts: Tensor, texts: Tensor, own: tuple[Tensor, Tensor], ranks: Tensor, smoothing: float) -> Tensor:
    rows, places = own
    width, size = counts.shape[1], len(ranks)
    totals = counts.sum(1)
    shares = (counts + smoothing).log() - (totals + smoothing * width).log()[:, None]
    has = torch.sparse_coo_tensor(torch.stack(own), counts.new_ones(len(rows)), (size, width), check_invariants=False)
    scores = torch.sparse.mm(has, shares.T) + texts.log()
    lengths = torch.bincount(rows, minlength=size).double()
    left = counts[ranks[rows], places] - 1
    each = (left + smoothing).log() - (totals[ranks] - lengths + smoothing * width).log()[rows]
    of_own = torch.zeros(size, dtype=torch.float64).index_add_(0, rows, each) + (texts[ranks] - 1).log()
    return scores.scatter(1, ranks[:, None], of_own[:, None])
