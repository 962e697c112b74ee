"""A model is called as it is trained: on its inputs, on what its forward names, or on the whole batch."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_gengap import measure
from lightning_gengap.errors import LogitsError
from lightning_gengap.network.logits import logits_of
from lightning_gengap.samples.calling import chosen_forward, default_forward

X, M, Y = torch.randn(8, 3), torch.randn(8, 3), torch.arange(8) % 2


class Net(nn.Module):
    """Its inputs weigh one, what is beside them ten."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3)[:, :2].clone())

    def combined(self, inputs: Tensor, meta: Tensor | None = None) -> Tensor:
        return (inputs + (0 if meta is None else 10 * meta)) @ self.weight


class Optional(Net):
    def forward(self, x: Tensor, meta: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        assert label is None
        return self.combined(x, meta)


class MetaFirst(Net):
    def forward(self, meta: Tensor, image: Tensor) -> Tensor:
        return self.combined(image, meta)


class OtherName(Net):
    def forward(self, meta: Tensor, pixels: Tensor) -> Tensor:
        return self.combined(pixels, meta)


class KeywordOnly(Net):
    def forward(self, images: Tensor, *, meta: Tensor) -> Tensor:
        return self.combined(images, meta)


class AnyName(Net):
    def forward(self, *inputs: Tensor, **others: Tensor) -> Tensor:
        return self.combined(*inputs, **others)


class Alone(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.combined(x)


class TwoInputs(Net):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.combined(left, right)


class WholeMapping(Net):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.combined(batch["image"], batch["meta"])


class WholePair(Net):
    def forward(self, batch: Any) -> Tensor:
        inputs, _ = batch
        return self.combined(inputs)


class OneTuple(Net):
    def forward(self, pair: Any) -> Tensor:
        return self.combined(*pair)


class WholeObject(Net):
    def forward(self, record: Any) -> Tensor:
        return self.combined(record.x, record.meta)


class NamesAlone(Net):
    def forward(self, **batch: Tensor) -> Tensor:
        return self.combined(batch["image"], batch["meta"])


class NamedAlone(Net):
    def forward(self, *, image: Tensor, meta: Tensor) -> Tensor:
        return self.combined(image, meta)


class OwnNames(Net):
    def forward(self, ids: Tensor, meta: Tensor) -> Tensor:
        return self.combined(ids, meta)


class WholeOfOwnNames(Net):
    def forward(self, batch: Any) -> Tensor:
        return self.combined(batch["ids"], batch["meta"])


class TwoUsual(Net):
    def forward(self, x: Tensor, data: Tensor) -> Tensor:
        return self.combined(x, data)


@dataclass
class OwnRecord:
    ids: Tensor
    meta: Tensor
    label: Tensor


class Compiled(nn.Module):
    """Holds the network as `torch.compile` does."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = Optional()

    def forward(self, *inputs: Any, **others: Any) -> Tensor:
        return self._orig_mod(*inputs, **others)


@dataclass
class Record:
    x: Tensor
    meta: Tensor
    y: Tensor


class Graph:
    """As the batches of graph libraries: attributes, no mapping."""

    def __init__(self) -> None:
        self.x, self.meta, self.y = X, M, Y


BATCH = {"image": X, "meta": M, "label": Y}
WITH_META, WITHOUT = (X + 10 * M)[:, :2], X[:, :2]
CALLS: dict[str, tuple[type[nn.Module], Any, Tensor]] = {
    "optional": (Optional, BATCH, WITH_META),
    "optional, not there": (Optional, {"image": X, "label": Y}, WITHOUT),
    "the input not first": (MetaFirst, BATCH, WITH_META),
    "another name for the input": (OtherName, BATCH, WITH_META),
    "by keyword alone": (KeywordOnly, BATCH, WITH_META),
    "any name": (AnyName, BATCH, WITH_META),
    "any name, one too many": (AnyName, {**BATCH, "index": Y}, WITHOUT),
    "not named": (Alone, BATCH, WITHOUT),
    "mapping that is no dict": (Optional, UserDict(BATCH), WITH_META),
    "compiled": (Compiled, BATCH, WITH_META),
    "whole mapping": (WholeMapping, BATCH, WITH_META),
    "whole pair": (WholePair, (X, Y), WITHOUT),
    "pair": (Optional, (X, Y), WITHOUT),
    "mapping in a pair": (TwoInputs, ({"left": X, "right": M}, Y), WITH_META),
    "mapping in a pair as one": (WholeMapping, ({"image": X, "meta": M}, Y), WITH_META),
    "tuple in a pair": (TwoInputs, ((X, M), Y), WITH_META),
    "list in a pair": (Optional, ([X, M], Y), WITH_META),
    "tuple in a pair as one": (OneTuple, ((X, M), Y), WITH_META),
    "dataclass": (Optional, Record(X, M, Y), WITH_META),
    "whole dataclass": (WholeObject, Record(X, M, Y), WITH_META),
    "object": (Optional, Graph(), WITH_META),
    "names alone": (NamesAlone, BATCH, WITH_META),
    "named alone": (NamedAlone, BATCH, WITH_META),
    "names of its own": (OwnNames, {"ids": X, "meta": M, "label": Y}, WITH_META),
    "two usual names": (TwoUsual, {"x": X, "data": M, "label": Y}, WITH_META),
    "whole mapping with names of its own": (WholeOfOwnNames, {"ids": X, "meta": M, "label": Y}, WITH_META),
    "dataclass with names of its own": (OwnNames, OwnRecord(X, M, Y), WITH_META),
    "whole object": (WholeObject, Graph(), WITH_META),
}


@pytest.mark.parametrize("kind", CALLS)
def test_the_model_is_called_as_it_is_written(kind: str) -> None:
    build, batch, expected = CALLS[kind]
    model = build()
    way, logits = chosen_forward(model, batch, lambda output: logits_of(output, 8))
    assert torch.equal(logits, expected)
    assert torch.equal(way(model, batch), expected)


class Typed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3)[:, :2].clone())

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return (x + 10 * meta) @ self.weight


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_forwards_are_asked_for_their_names() -> None:
    assert torch.equal(default_forward(torch.jit.script(Typed()), BATCH), WITH_META)


def test_a_module_without_forward_is_refused_with_the_part_to_call() -> None:
    class OnlySteps(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.loss, self.net = nn.CrossEntropyLoss(), nn.Linear(3, 2)

    message = r"Pass forward=lambda module, batch: module\.net\(batch\[0\]\), or another that returns the logits\.$"
    with pytest.raises(LogitsError, match=message):
        chosen_forward(OnlySteps(), (X, Y), lambda output: logits_of(output, 8))


def test_a_forward_that_needs_the_targets_is_refused_with_what_to_pass() -> None:
    class NeedsLabels(Net):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return self.combined(x)

    with pytest.raises(LogitsError, match=r"Pass forward=lambda module, batch: .*module\(batch\['image'\]\)"):
        chosen_forward(NeedsLabels(), {"image": X, "label": Y}, lambda output: logits_of(output, 8))


def test_an_argument_of_another_structure_is_refused_with_what_to_pass() -> None:
    class Unpacking(Net):
        def forward(self, x: Any) -> Tensor:
            return self.combined(x["left"]["right"])

    with pytest.raises(LogitsError, match=r"model forward: got .*Pass forward=lambda") as caught:
        chosen_forward(Unpacking(), (X, Y), lambda output: logits_of(output, 8))
    assert caught.value.may_pass


def test_an_error_of_the_network_itself_is_raised() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        chosen_forward(nn.Linear(5, 2), (X, Y), lambda output: logits_of(output, 8))


def test_memory_that_is_missed_is_no_reason_to_try_another_way() -> None:
    class Full(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model = Full()
    with pytest.raises(torch.OutOfMemoryError):
        chosen_forward(model, (X, Y), lambda output: output)
    assert model.calls == 1


def test_a_mask_that_is_trained_with_is_measured_with() -> None:
    labels = torch.arange(60) % 3
    hints = torch.eye(3)[labels]

    class Hinted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.hint = nn.Linear(5, 3), nn.Linear(3, 3)
            nn.init.eye_(self.hint.weight)
            nn.init.zeros_(self.hint.bias)

        def forward(self, x: Tensor, meta: Tensor | None = None) -> Tensor:
            return 0.01 * self.plain(x) + (0 if meta is None else 9 * self.hint(meta))

    batch = {"image": torch.randn(60, 5), "meta": hints, "label": labels}
    assert measure(Hinted(), [batch], ["fit"])["train_accuracy"] == 1.0
