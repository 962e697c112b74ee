"""What memory is left on the CPU, and what a graph takes of it: a process that takes too much is killed unwarned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_gengap.errors import Undefined

UNLIMITED = 2**60  # above it, a control group's limit means that there is none
SHARE = 0.75  # of what is left, which others want too
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


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take of the machine and of its control groups; None where there is no Linux.

    A control group counts the files that are cached for it. Those that are not in use are given back when needed, so
    that they count as free here.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, folder = ("memory.max", "memory.current", "inactive_file"), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            folder = root / "sys/fs/cgroup/memory"
        else:
            continue
        parts = Path(path.lstrip("/"))
        found += [left for group in {parts, *parts.parents} if (left := _left(folder / group, *names)) is not None]
    return min(found) if found else None


def _left(group: Path, limit: str, usage: str, cached: str) -> int | None:
    most, used = "".join(_lines(group / limit)), "".join(_lines(group / usage))
    if not most.isdigit() or not used.isdigit() or int(most) > UNLIMITED:
        return None
    given_back = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith(f"{cached} ")]
    return max(int(most) - int(used) + sum(given_back), 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


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
