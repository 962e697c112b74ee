"""The global random streams are where they were, and those of CUDA were never set."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lightning_gengap.undisturbed.random_streams import random_streams_kept


class FailedError(Exception):
    """Of the block."""


@pytest.mark.parametrize("fails", [False, True])
def test_streams_go_on_where_they_were(fails: bool) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw()
    try:
        with random_streams_kept():
            draw()
            torch.manual_seed(5)
            if fails:
                raise FailedError
    except FailedError:
        assert fails
    assert [first, draw()] == expected


class Stream:
    """What a generator of CUDA has: a state that can be exchanged; to set it would be seen."""

    def __init__(self, state: list[int] | None = None) -> None:
        self.state = [0] if state is None else state

    def draw(self) -> None:
        self.state[0] += 1

    def graphsafe_get_state(self) -> Stream:
        return Stream(self.state)

    def graphsafe_set_state(self, other: Stream) -> None:
        self.state = other.state

    def clone_state(self) -> Stream:
        return Stream(list(self.state))

    def set_state(self, state: object) -> None:
        raise AssertionError("cuDNN would draw its masks anew")


def test_a_stream_of_cuda_is_exchanged_and_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = (Stream(), Stream())
    states = [stream.state for stream in streams]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", streams)
    streams[0].draw()
    with random_streams_kept():
        for stream in streams:
            stream.draw()
        assert [stream.state for stream in streams] == [[2], [1]]
    assert [stream.state for stream in streams] == [[1], [0]]
    assert all(stream.state is state for stream, state in zip(streams, states, strict=True))
