"""Naive Bayes without each text, against scikit-learn's, fitted without it; and which tensor holds the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.fitting import Judged
from lightning_gengap.measures.agreement.tokens import NO_TOKENS, SMOOTHINGS, TokenBayes, place_of_tokens, tokens_at
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.undisturbed import undisturbed
from tests import networks
from tests.probes import measured, probing

TEXTS, OTHERS, CLASSES = 20, 25, 3


def texts() -> tuple[Tensor, Tensor]:
    """Sparse ids, one of them as if for padding."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(CLASSES, (TEXTS + OTHERS,), generator=generator)
    words = torch.randint(6, (len(ranks), 5), generator=generator) + 2 * ranks[:, None]
    return torch.where(torch.rand(words.shape, generator=generator) < 0.3, 0, 1000 * words - 7), ranks


def bayes_of(tokens: Tensor, ranks: Tensor) -> TokenBayes:
    return TokenBayes.on(tokens, Judged(torch.arange(len(tokens)), torch.arange(CLASSES), ranks))


def has(tokens: Tensor, known: Tensor) -> np.ndarray:
    return (tokens[:, :, None] == known).any(1).numpy().astype(float)


@pytest.mark.parametrize("others", [0, OTHERS])
def test_each_text_is_scored_as_by_a_fit_without_it(others: int) -> None:
    tokens, ranks = texts()
    rest = [(tokens[TEXTS : TEXTS + others], ranks[TEXTS : TEXTS + others])] if others else []
    bayes = bayes_of(tokens[:TEXTS], ranks[:TEXTS])
    for slice_ in rest:
        bayes.add(*slice_)
    found = bayes.scores()
    count, known = TEXTS + others, tokens[:TEXTS].unique()
    rows, labels = has(tokens[:count], known), ranks[:count].numpy()
    assert len(found) == len(SMOOTHINGS)
    for smoothing, scores in zip(SMOOTHINGS, found, strict=True):
        for i in range(TEXTS):
            kept = np.arange(count) != i
            fitted = MultinomialNB(alpha=smoothing).fit(rows[kept], labels[kept])
            expected = fitted.predict_log_proba(rows[i : i + 1])[0]
            assert scores[i].log_softmax(0).numpy() == pytest.approx(expected, abs=1e-9)


def test_texts_of_no_class_do_not_count() -> None:
    tokens, ranks = texts()
    one, other = (bayes_of(tokens[:TEXTS], ranks[:TEXTS]) for _ in range(2))
    other.add(tokens[TEXTS:], torch.full((OTHERS,), -1))
    assert torch.equal(one.scores()[0], other.scores()[0])


class Masked(nn.Module):
    """Asks a mapping for a mask, the ids, and for positions of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.words = nn.Embedding(9, 4), nn.Embedding(networks.VOCABULARY, 4)
        self.head = nn.Linear(4, networks.CLASSES)

    def forward(self, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        places = self.positions(torch.arange(input_ids.shape[1])[None])
        return self.head(((self.words(input=input_ids) + places) * attention_mask[:, :, None]).mean(1))


def probe_of(model: nn.Module, content: Any) -> Probe:
    batch = read_batch(content)
    return Probe(model=model, batches=(batch,), layout=Layout.of(model, batch, default_forward))


def test_the_tokens_are_what_goes_into_an_embedding() -> None:
    ids = networks.token_ids(12)
    content = {"attention_mask": torch.ones_like(ids), "input_ids": ids, "labels": torch.arange(12) % 4}
    model = networks.made(Masked)
    with undisturbed(model):
        probe = probe_of(model, content)
        place = place_of_tokens(probe)
    assert torch.equal(tokens_at(probe.batches[0], place), ids)
    assert not any(module._forward_pre_hooks for module in model.modules())


class Placed(nn.Module):
    """Looks up the positions and the kinds of the tokens, which the batch has, before the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.kinds = nn.Embedding(9, 4), nn.Embedding(2, 4)
        self.words, self.head = nn.Embedding(networks.VOCABULARY, 4), nn.Linear(4, networks.CLASSES)

    def forward(self, position_ids: Tensor, token_type_ids: Tensor, input_ids: Tensor) -> Tensor:
        return self.head((self.positions(position_ids) + self.kinds(token_type_ids) + self.words(input_ids)).mean(1))


def test_positions_and_kinds_are_no_tokens() -> None:
    ids = networks.token_ids(12)
    positions = torch.arange(ids.shape[1]).expand(12, -1).contiguous()
    kinds = (positions >= torch.arange(12)[:, None] % 3).long()
    content = {"position_ids": positions, "token_type_ids": kinds, "input_ids": ids, "labels": torch.arange(12) % 4}
    model = networks.made(Placed)
    with undisturbed(model):
        probe = probe_of(model, content)
        found = tokens_at(probe.batches[0], place_of_tokens(probe))
    assert found is not None
    assert torch.equal(found, ids)


class Columns(nn.Module):
    """An embedding for each column of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Embedding(networks.VOCABULARY, 3) for _ in range(6))
        self.head = nn.Linear(3, networks.CLASSES)

    def forward(self, table: Tensor) -> Tensor:
        return self.head(sum(column(table[:, i]) for i, column in enumerate(self.columns)))


@pytest.mark.parametrize("kind", ["columns", "no embedding", "floats"])
def test_other_inputs_have_no_tokens(kind: str) -> None:
    ids = networks.token_ids(12)
    model = Columns() if kind == "columns" else nn.Linear(6, 4)
    inputs = ids.float() if kind == "floats" else ids
    if kind == "no embedding":
        model.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    with probing(model, inputs, torch.arange(12) % 4) as probe, pytest.raises(Undefined, match=NO_TOKENS[:20]):
        place_of_tokens(probe)


def test_the_measure_gives_the_accuracy_of_the_best_smoothing() -> None:
    tokens, ranks = texts()
    tokens = tokens.unique(return_inverse=True)[1]

    class Bag(networks.Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(int(tokens.max()) + 1, 8)

    found = measured("reference", networks.made(Bag), tokens, ranks, chunk=16, named=frozenset({"reference"}))
    scores = bayes_of(tokens, ranks).scores()
    best = max(float((each.argmax(1) == ranks).double().mean()) for each in scores)
    assert found.values["reference/tokens_accuracy"] == best == found.values["reference/best_accuracy"]
    assert found.values["reference/tokens_samples"] == TEXTS + OTHERS
    assert found.absent["reference/forest_*"] == "the inputs are not floats"
