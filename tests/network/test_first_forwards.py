"""The first batch settles how the network is called, whether samples interact, and where the examples lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_gengap import measure
from lightning_gengap.network.first_forwards import FirstForwards
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.undisturbed import undisturbed

COUNT = 24
X, Y = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0)), torch.arange(COUNT) % 3


def first(model: nn.Module, *batches: Any, forward: Any = None) -> FirstForwards:
    with undisturbed(model):
        return FirstForwards.of(model, tuple(read_batch(batch, forward=forward) for batch in batches), forward)


def measured(model: nn.Module, batches: list[Any], *names: str) -> tuple[dict[str, float], list[str]]:
    """Values and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = measure(model, batches, names or ("fit", "margin"))
    return values, [str(each.message) for each in caught]


def in_chunks(size: int) -> list[Any]:
    return [(X[at : at + size], Y[at : at + size]) for at in range(0, COUNT, size)]


class Contrasted(nn.Linear):
    """The logits of a batch have mean zero."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0)


class Attending(nn.Module):
    """Samples attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x[None], x[None], x[None])[0][0])


def unnormalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))


INTERACTING = {"mean": lambda: Contrasted(6, 3), "batch norm": unnormalised, "attention": Attending}


@pytest.mark.parametrize("size", [COUNT, 6, 2])
@pytest.mark.parametrize("kind", INTERACTING)
def test_samples_that_interact_are_said_once(kind: str, size: int) -> None:
    values, said = measured(INTERACTING[kind](), in_chunks(size))
    words = f"so all values depend on the chunks, here of size {size}, and margins are those of whole chunks"
    assert sum(words in each for each in said) == 1
    assert {"train_accuracy", "margin/output/median"} <= values.keys()


def test_samples_that_interact_have_no_derivatives_of_their_own() -> None:
    values, said = measured(unnormalised(), in_chunks(COUNT), "fit", "soft_rank")
    assert "train_loss" in values
    assert "curvature/* is absent: samples interact in eval mode" in said


def test_samples_that_interact_are_found_in_chunks_of_one() -> None:
    assert first(Contrasted(6, 3), *in_chunks(1)).interaction == "samples interact in eval mode"
    assert first(nn.Linear(6, 3), *in_chunks(1)).interaction is None


@pytest.mark.parametrize("size", [COUNT, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_is_no_interaction(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(*(nn.Sequential(nn.Linear(n, 512), nn.BatchNorm1d(512), nn.GELU()) for n in (6, 512, 512)))
    model = nn.Sequential(wide, nn.Linear(512, 3)).to(dtype)
    found = first(model, *((x.to(dtype), y) for x, y in in_chunks(size)))
    assert (found.interaction, found.inseparable, found.remark) == (None, None, None)


def test_logits_of_another_size_do_not_change_the_tolerance() -> None:
    model = nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 3))
    for scale in (1e-6, 1e6):
        with torch.no_grad():
            model[2].weight.normal_().mul_(scale)
        assert first(model, (X, Y)).interaction is None


class Amplifying(nn.Linear):
    """Large logits, in which the rounding of a batch of this size shows."""

    amplified = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        logits = 5e3 * super().forward(x)
        return logits * (1 + self.amplified * len(x) / COUNT)


class Mixed(nn.Linear):
    """Large logits, each with a small share of the batch's mean."""

    share = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        logits = 5e3 * super().forward(x)
        return logits + self.share * logits.mean(0)


class Overflowing(nn.Linear):
    """Large logits, of which those of the last samples overflow."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 5e3 * super().forward(x) * (1 + 1e-6 * len(x))
        return torch.where(x[:, :1] < 90, logits, logits / 0)


@pytest.mark.parametrize("size", [COUNT, 6, 2])
def test_rounding_that_the_network_amplifies_is_no_interaction(size: int) -> None:
    assert first(Amplifying(6, 3), *in_chunks(size)).interaction is None


@pytest.mark.parametrize("size", [COUNT, 6, 2])
def test_a_small_share_of_other_samples_is_an_interaction_however_large_the_logits_are(size: int) -> None:
    torch.manual_seed(0)
    shifted = [(x + 1, y) for x, y in in_chunks(size)]
    assert first(Mixed(6, 3), *shifted).interaction is not None


def test_an_interaction_beside_much_larger_logits_of_another_sample_is_found() -> None:
    torch.manual_seed(0)
    inputs = X.clone()
    inputs[-1] *= 1e5
    assert first(Mixed(6, 3), (inputs, Y)).interaction is not None


def test_logits_that_overflow_say_nothing_of_the_others() -> None:
    inputs = X.clone()
    inputs[-1, 0] = 99
    assert first(Overflowing(6, 3), (inputs, Y)).interaction is None


def test_random_outputs_are_no_interaction() -> None:
    class Dropping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x))

    found = first(Dropping(6, 3), (X, Y))
    assert found.interaction is None
    assert found.remark is not None
    assert "random in eval mode" in found.remark


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(5, 8, batch_first=batch_first), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        return self.head(states[:, -1] if self.layer.batch_first else states[-1])


@pytest.mark.parametrize("length", [7, COUNT, COUNT // 2])  # as many steps as examples, too
@pytest.mark.parametrize("sizes", [(COUNT,), (COUNT // 2, COUNT // 2), (10, 10, 4)])
def test_examples_on_the_second_axis_are_measured_like_those_on_the_first(length: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    one, other = Recurrent(True), Recurrent(False)
    other.load_state_dict(one.state_dict())
    inputs = torch.randn(COUNT, length, 5)
    parts = list(zip(inputs.split(sizes), Y.split(sizes), strict=True))
    expected, _ = measured(one, parts, "fit", "margin", "gradient_noise")
    values, _ = measured(
        other, [(x.transpose(0, 1).contiguous(), y) for x, y in parts], "fit", "margin", "gradient_noise"
    )
    assert values.keys() == expected.keys()
    assert "margin/input/total_variation" in values
    assert values == pytest.approx(expected, rel=1e-4)


class Tokens(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.embedding, self.head, self.axis = nn.Embedding(20, 8), nn.Linear(8, 3), axis

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(self.axis))


def test_tokens_on_the_second_axis_are_measured_like_those_on_the_first() -> None:
    torch.manual_seed(0)
    one, other = Tokens(1), Tokens(0)
    other.load_state_dict(one.state_dict())
    ids = torch.randint(0, 20, (COUNT, 5))
    expected, _ = measured(one, [(ids, Y)], "fit", "margin")  # what draws samples by place has them in another order
    values, said = measured(other, [(ids.T.contiguous(), Y)], "fit", "margin")
    assert values == pytest.approx(expected, rel=1e-4)
    assert "margin/input* is absent: the inputs are not floats" in said


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, offsets: Tensor) -> Tensor:
        return self.head(self.bag(input_ids, offsets))


class Sparse(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(x, self.weight.T) + self.bias


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(5, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Tensor:
        return self.head(self.layer(x)[1][0])


class Nodes:
    """Graphs of five nodes each, as an object."""

    def __init__(self) -> None:
        self.x, self.batch, self.y = torch.randn(5 * COUNT, 6), torch.arange(5 * COUNT) // 5, Y


class Pooling(nn.Linear):
    def forward(self, data: Any) -> Tensor:
        return torch.zeros(COUNT, 3).index_add(0, data.batch, super().forward(data.x))


IDS, OFFSETS = torch.randint(0, 20, (2 * COUNT,)), 2 * torch.arange(COUNT)
SEQUENCES = pack_padded_sequence(torch.randn(COUNT, 4, 5), torch.full((COUNT,), 4), batch_first=True)
NO_PARTS = "the samples of a batch cannot be taken apart"
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR")
    COMPRESSED = X.to_sparse_csr()
WHOLE: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "offset bag": (Bag, ((IDS, OFFSETS), Y), "the inputs are not floats"),
    "offset bag in a mapping": (Bag, {"input_ids": IDS, "offsets": OFFSETS, "label": Y}, "the inputs are not floats"),
    "packed": (Packed, (SEQUENCES, Y), "no float input has the examples on its first axis"),
    "compressed": (lambda: Sparse(6, 3), (COMPRESSED, Y), "the inputs are sparse or nested"),
    "graphs": (lambda: Pooling(6, 3), Nodes(), "no float input has the examples on its first axis"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_samples_that_cannot_be_taken_apart_are_measured_in_whole_batches(kind: str) -> None:
    build, batch, reason = WHOLE[kind]
    model = build()
    found = first(model, batch)
    assert (found.interaction, found.inseparable, found.remark) == (None, NO_PARTS, None)
    values, said = measured(model, [batch], "fit", "margin", "perturbation", "soft_rank")
    assert {"train_accuracy", "train_loss", "margin/output/median"} <= values.keys()
    assert f"margin/input* is absent: {reason}" in said
    assert f"perturbation/* is absent: the inputs are not images of one size: {reason}" in said
    assert f"curvature/* is absent: {NO_PARTS}" in said


def test_sparse_inputs_are_taken_apart() -> None:
    found = first(Sparse(6, 3), (X.to_sparse(), Y))
    assert (found.interaction, found.inseparable) == (None, None)
    assert found.batches[0].no_inputs == "the inputs are sparse or nested"


class Convolved(nn.Module):
    """Takes images of bytes, and makes floats of them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / 255 if x.is_floating_point() else x.float() / 255)


IMAGES = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8)


def test_images_of_bytes_are_perturbed_as_floats() -> None:
    model = Convolved()
    values, _ = measured(model, [(IMAGES, Y)], "fit", "margin", "perturbation")
    expected, _ = measured(model, [(IMAGES.float(), Y)], "fit", "margin", "perturbation")
    assert values == expected
    assert "perturbation/augment_accuracy" in values


def test_bytes_that_must_stay_bytes_are_not_perturbed() -> None:
    class Table(nn.Embedding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.int() if x.dtype == torch.uint8 else x).mean((1, 2, 3))

    found = first(Table(256, 3), (IMAGES, Y))
    assert found.batches[0].inputs is None
    assert found.batches[0].content[0] is IMAGES


class Held:
    """A batch whose tensors are not found by looking into containers."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class Stale(dict[str, Any]):
    """A mapping that hands out what it was first made of."""

    def __init__(self, parts: Any, original: Tensor | None = None) -> None:
        super().__init__(parts)
        self.original = X if original is None else original


OPAQUE: dict[str, tuple[Any, Callable[[nn.Module, Any], Tensor], str]] = {
    "object": (Held(X, Y), lambda module, batch: module(batch.x), "a Held"),
    "stale mapping": (Stale({"x": X, "y": Y}), lambda module, batch: module(batch.original), "a Stale"),
    "view": (MappingProxyType({"x": X, "y": Y}), lambda module, batch: module(batch["x"]), ""),
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_a_batch_whose_inputs_cannot_be_exchanged_is_not_perturbed(kind: str) -> None:
    batch, forward, name = OPAQUE[kind]
    found = first(nn.Linear(6, 3), batch, forward=forward)
    if name:
        assert found.batches[0].inputs is None
        assert found.batches[0].no_inputs == f"the tensors of {name} cannot be exchanged"
    else:
        assert found.batches[0].inputs is X


class Adding(nn.Module):
    """Changes its inputs in place, at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 1
        return self.head(x.mul_(2))


class Popping(nn.Linear):
    def forward(self, batch: Any) -> Tensor:
        batch.pop("y")
        return super().forward(batch.pop("x"))


def test_a_forward_may_change_its_inputs() -> None:
    torch.manual_seed(0)
    model, before = Adding(), X.clone()
    values, _ = measured(model, in_chunks(6), "fit", "margin")
    plain = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        plain[0].weight.copy_(2 * model.head.weight)
        plain[0].bias.copy_(model.head.bias - 2 * model.head.weight.sum(1))
    expected, _ = measured(plain, in_chunks(6), "fit", "margin")
    assert torch.equal(before, X)
    for key in ("train_loss", "margin/input/total_variation", "margin/output/median"):
        assert values[key] == pytest.approx(expected[key], rel=1e-4)


def test_a_forward_may_take_parts_out_of_its_batch() -> None:
    model, batch = Popping(6, 3), {"x": X, "y": Y}
    values, _ = measured(model, [batch], "fit", "margin")
    expected, _ = measured(nn.Sequential(model), [{"x": X, "y": Y}], "fit", "margin")
    assert values == expected
    assert batch.keys() == {"x", "y"}


def test_encoders_with_padding_take_the_path_of_training() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 16, padding_idx=0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            kept = x != 0
            hidden = self.encoder(self.embedding(x), src_key_padding_mask=~kept)
            return self.head((hidden * kept[..., None]).sum(1) / kept.sum(1, keepdim=True))

    torch.manual_seed(0)
    model = Text()
    ids = torch.randint(1, 30, (COUNT, 9)) * (torch.arange(9) < torch.randint(3, 9, (COUNT, 1)))
    expected = nn.functional.cross_entropy(model(ids), Y).item()  # with gradients and without dropout
    values, _ = measured(model, [(ids, Y)], "fit", "margin")
    assert values["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert "margin/h3/total_variation" in values
    assert torch.backends.mha.get_fastpath_enabled()
