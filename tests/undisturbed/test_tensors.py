"""Tensors of every kind come back: the same object, the same bytes, on memory of the same size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import tensors, undisturbed
from lightning_gengap.undisturbed.places import bytes_of, parts_of
from lightning_gengap.undisturbed.tensors import KeptTensors


class Holder(nn.Module):
    """A module with one buffer."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self.register_buffer("own", buffer)


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def of_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


def sparse_rows() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def written(tensor: Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()):
        tensor.zero_()


CHANGES: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Any]]] = {
    "plain": (lambda: torch.ones(3), written),
    "negative zero": (lambda: torch.tensor([-0.0, 1.0]), lambda own: own.abs_()),
    "NaN": (lambda: torch.tensor([torch.nan, 1.0]), written),
    "no axis": (lambda: torch.tensor(2.0), written),
    "empty, resized": (lambda: torch.zeros(0, 4), lambda own: own.resize_(3, 4).fill_(1)),
    "resized": (lambda: torch.ones(2), lambda own: own.resize_(5)),
    "shrunk": (lambda: torch.ones(6), lambda own: own.untyped_storage().resize_(4)),
    "set": (lambda: torch.ones(2), lambda own: own.set_(torch.zeros(7))),
    "transposed": (lambda: torch.arange(6.0).reshape(2, 3), lambda own: own.t_()),
    "data exchanged": (lambda: torch.ones(2), lambda own: setattr(own, "data", torch.zeros(2))),
    "data written": (lambda: torch.ones(2), lambda own: own.data.zero_()),
    "expanded": (lambda: torch.ones(1).expand(4), lambda own: own[:1].zero_()),
    "overlapping": (lambda: torch.arange(4.0).as_strided((3, 2), (1, 1)), lambda own: own[0, :1].fill_(9)),
    "view with strides": (lambda: torch.arange(12.0).reshape(3, 4).t()[::2], written),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), written),
    "conjugate": (lambda: torch.tensor([1 + 2j]).conj(), written),
    "bool": (lambda: torch.ones(3, dtype=torch.bool), written),
    "bfloat16": (lambda: torch.ones(3, dtype=torch.bfloat16), written),
    "quantised": (quantised, lambda own: own.untyped_storage().fill_(3)),
    "inference": (of_inference_mode, written),
    "sparse": (lambda: torch.eye(3).to_sparse(), lambda own: own.mul_(2)),
    "sparse, emptied": (lambda: torch.eye(3).to_sparse(), lambda own: own.zero_()),
    "sparse, of another size": (lambda: torch.eye(3).to_sparse(), lambda own: own.sparse_resize_((5, 5), 2, 0)),
    "sparse, uncoalesced": (lambda: torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)), lambda own: own.mul_(2)),
    "sparse rows": (sparse_rows, lambda own: own.values().zero_()),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), lambda own: own.mul_(2)),
}


def seen(tensor: Tensor) -> tuple[Any, ...]:
    shape = None if tensor.is_nested else tuple(tensor.shape)
    sizes = [part.untyped_storage().nbytes() for part in parts_of(tensor)]
    return shape, tensor.layout, tensor.dtype, bytes_of(tensor), sizes


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse")
@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_tensor_is_restored_in_place(kind: str):
    make, change = CHANGES[kind]
    model = Holder(make())
    own, before = model.own, seen(model.own)
    with undisturbed(model):
        change(model.own)
        assert seen(model.own) != before
    assert model.own is own
    assert seen(own) == before


@pytest.mark.parametrize("make", [lambda: torch.ones(3), lambda: torch.eye(2).to_sparse()], ids=["plain", "sparse"])
def test_nothing_is_written_where_nothing_changed(make: Callable[[], Tensor]):
    model = nn.Sequential(Holder(make()), nn.Linear(2, 2))
    versions = [tensor._version for tensor in (*model.buffers(), *model.parameters())]
    with undisturbed(model):
        model[1](torch.ones(1, 2))
    assert [tensor._version for tensor in (*model.buffers(), *model.parameters())] == versions


def test_a_meta_tensor_has_no_bytes_to_keep():
    model = Holder(torch.ones(3, device="meta"))
    own = model.own
    with undisturbed(model):
        model.own = None
    assert model.own is own


def test_a_parameter_keeps_its_memory_its_gradient_and_whether_it_needs_one():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    weight, gradient = model.weight, model.weight.grad
    assert gradient is not None
    address, value = weight.data_ptr(), weight.detach().clone()
    with undisturbed(model):
        weight.data = torch.zeros(2, 2)
        gradient.mul_(2)
        weight.grad = None
        weight.requires_grad_(False)
    assert model.weight is weight
    assert weight.data_ptr() == address
    assert weight.requires_grad
    assert weight.grad is gradient
    assert torch.equal(gradient, torch.ones(2, 2))
    assert torch.equal(weight, value)


def test_lazy_parameters_are_lazy_again():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    kinds = [type(each) for each in (*model.parameters(), *model.buffers(), *model.modules())]
    with undisturbed(model):
        model.train()
        model(torch.ones(4, 2))
        assert not isinstance(model[0].weight, nn.UninitializedParameter)
    assert [type(each) for each in (*model.parameters(), *model.buffers(), *model.modules())] == kinds
    torch.manual_seed(0)
    model(torch.ones(4, 5))
    torch.manual_seed(0)
    other = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    other(torch.ones(4, 5))
    assert torch.equal(model[0].weight, other[0].weight)


def test_parameters_too_large_to_be_copied_are_watched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_gengap.undisturbed.snapshot.MOST_COPIED", 0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with undisturbed(model):
        model.train()
        model(torch.ones(3, 2))
    assert int(model[1].num_batches_tracked) == 0
    words = r"Parameter of shape \(2, 2\): .* too large to be copied"
    with pytest.raises(RuntimeError, match=words), undisturbed(model):
        nn.init.zeros_(model[0].weight)


def test_an_embedding_that_renormalises_is_copied_whatever_its_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_gengap.undisturbed.snapshot.MOST_COPIED", 0)
    model = nn.Embedding(4, 3, max_norm=0.1)
    before = model.weight.detach().clone()
    with undisturbed(model):
        model(torch.tensor([0, 1]))
    assert torch.equal(model.weight, before)


def test_one_tensor_that_fails_does_not_keep_the_others_from_being_restored(monkeypatch: pytest.MonkeyPatch):
    model = nn.Sequential(Holder(torch.ones(2)), Holder(torch.ones(3)))
    model[0].own.untyped_storage().resize_(16)
    restore = tensors._restore_object

    def failing(kept: Any) -> None:
        if kept.tensor is model[0].own:
            raise RuntimeError("stuck")
        restore(kept)

    monkeypatch.setattr(tensors, "_restore_object", failing)
    with pytest.raises(RuntimeError, match=r"could not be undone: Tensor of shape \(2,\): stuck"), undisturbed(model):
        model[1].own.set_(torch.zeros(1))
    assert model[1].own.tolist() == [1, 1, 1]
    with pytest.raises(KeyError, match="mine"), undisturbed(model):  # an error of the block comes first
        raise KeyError("mine")


def test_a_device_is_asked_once_whatever_it_holds(monkeypatch: pytest.MonkeyPatch):
    """On an accelerator every answer costs a synchronisation."""
    monkeypatch.setattr(tensors, "_JOINED", 0)  # each tensor a piece of its own
    monkeypatch.setattr(tensors._Pieces, "differ", lambda self: (self.now() != self.copy).any())
    asked: list[int] = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda answers: asked.append(len(answers)) or stack(answers))
    kept, owns = KeptTensors(), [torch.ones(2) for _ in range(3)]
    for own in owns:
        kept.keep(own, copied=True)
    kept.copy()
    owns[1].zero_()
    kept.restore(lambda what, error: pytest.fail(f"{what}: {error}"))
    assert asked == [3]
    assert all(own.tolist() == [1, 1] for own in owns)
