"""What memory is left on the CPU, and what a graph takes of it: a process that takes too much is killed unwarned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_gengap.errors import Undefined
from lightning_gengap.free_memory import SHARE, available

FEWER = "use fewer samples"
FREE = "free memory, or leave the measure out"


def room_for(count: float) -> bool:
    """Whether that many bytes fit into what is left; True where it is not known what is left."""
    left = available()
    return left is None or count <= SHARE * left


def require_room(count: float, what: str, remedy: str = FEWER) -> None:
    """Raise `Undefined` where that many bytes do not fit into what is left; `what` would take them."""
    if not room_for(count):
        raise Undefined(f"{what} would not fit into memory: they take {count / 2**20:,.0f} MiB; {remedy}")


def kept_by(forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward's graph keeps for its backward, weights included. A storage counts once."""
    storages: dict[int, torch.UntypedStorage] = {}
    boxes: list[list[Tensor]] = []

    def packed(tensor: Tensor) -> list[Tensor]:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held: a freed one's address would come again
        boxes.append([tensor])
        return boxes[-1]

    try:
        with saved_tensors_hooks(packed, lambda box: box[0]):
            forward()
        return sum(storage.nbytes() for storage in storages.values())
    finally:
        for box in boxes:  # an operation that saves its output and the output hold each other, unseen by Python
            box.clear()
