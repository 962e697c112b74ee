from __future__ import annotations

import pytest
import torch

from lightning_gengap.network import rows
from lightning_gengap.network.rows import Rows
from tests.pretended_device import PretendedDevice

PARTS = torch.arange(24.0).reshape(4, 3, 2)


@pytest.mark.parametrize(("held", "moves"), [(2**26, 1), (2 * PARTS[0].numel() * 4, 2), (0, 4)])
def test_rows_leave_the_device_together_or_whenever_many_wait(
    held: int, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "HELD", held)
    with PretendedDevice() as device:
        gathered = Rows()
        with device.counted() as waited:
            for part in PARTS.to(device.place):
                gathered.add(part)
            found = gathered.on_cpu()
        assert found.device.type == "cpu"
    assert waited.total() == moves
    assert torch.equal(found, PARTS.flatten(0, 1))


def test_rows_on_the_cpu_are_put_together_once() -> None:
    gathered = Rows()
    for part in PARTS:
        gathered.add(part)
    assert torch.equal(gathered.on_cpu(), PARTS.flatten(0, 1))
