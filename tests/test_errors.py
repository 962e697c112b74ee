from __future__ import annotations

import weakref

import pytest
import torch

from lightning_gengap.errors import (
    DataError,
    GapError,
    MeasureError,
    Undefined,
    frameless,
    one_line,
    out_of_memory,
    sentence,
)


def test_a_refusal_says_what_was_got_what_was_expected_and_what_to_do() -> None:
    error = DataError("training samples", got="no batch", expected="at least one", remedy="Check the data set.")
    assert str(error) == "training samples: got no batch; expected at least one. Check the data set."
    assert (error.subject, error.may_pass) == ("training samples", False)
    assert MeasureError("tic", got="NaN", expected="a number", remedy="").may_pass
    assert isinstance(error, ValueError)


def test_what_is_undefined_is_no_refusal() -> None:
    undefined = Undefined("no class has two samples")
    assert undefined.reason == str(undefined) == "no class has two samples"
    assert not isinstance(undefined, GapError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\nfirst\nsecond"), "RuntimeError: first"),
        (MemoryError(), "MemoryError: "),
        (KeyError("x" * 200), f"KeyError: '{'x' * 159}"),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\nfirst\n  second"), "RuntimeError: first second."),
        (ValueError("really?"), "ValueError: really?"),
        (KeyError(), "KeyError:"),
        (RuntimeError("word " * 200), f"RuntimeError: {'word ' * 116}..."),
        (DataError("d", got="g" * 700, expected="e", remedy="Do."), f"DataError: d: got {'g' * 700}; expected e. Do."),
    ],
)
def test_an_error_is_told_in_one_sentence(error: Exception, line: str) -> None:
    assert sentence(error) == line


@pytest.mark.parametrize("error", [RuntimeError("a size mismatch"), OSError("out of memory"), ValueError()])
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)


def test_a_frameless_error_keeps_nothing_alive() -> None:
    def fail() -> weakref.ref[torch.Tensor]:
        held = torch.zeros(3)
        kept.append(weakref.ref(held))
        try:
            raise KeyError(held)
        except KeyError:
            raise RuntimeError("failed")  # noqa: B904

    kept: list[weakref.ref[torch.Tensor]] = []
    try:
        fail()
    except RuntimeError as error:
        left = frameless(error)
    assert kept[0]() is None
    assert (str(left), left.__cause__, left.__context__, left.__traceback__) == ("failed", None, None, None)
