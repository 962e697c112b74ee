"""The user is told once what a measurement cannot leave as it was, before the first step."""

from __future__ import annotations

from tests.integration.refusals.tasks import Counting
from tests.lightning_models import TinyModel, watched
from tests.tiny_predictors import tiny_monitor


def test_what_cannot_be_undone_is_said_once_and_by_name():
    values, said = watched(tiny_monitor(), model=Counting())
    (line,) = said
    assert line.startswith("GapMonitor cannot undo what a measurement changes in source: training may differ")
    assert "GapMonitor(forward=lambda module, batch: ...)" in line
    assert values("gengap/status") == [0, 0]


class Uncopied(TinyModel):
    """It holds a generator, which Python cannot copy."""

    def __init__(self) -> None:
        super().__init__()
        self.source = (number for number in range(3))


def test_a_model_that_cannot_be_copied_is_measured_all_the_same():
    values, said = watched(tiny_monitor(), model=Uncopied())
    (line,) = said
    assert "in source, which cannot be copied (TypeError: " in line
    assert values("gengap/status") == [0, 0]


class Uncountable(TinyModel):
    """Something in it refuses to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Refusing()


class Refusing:
    def __hash__(self) -> int:
        raise OSError("not today")

    def __eq__(self, other: object) -> bool:
        raise OSError("not today")


def test_a_plain_model_is_rehearsed_in_silence():
    assert watched(tiny_monitor(), model=TinyModel())[1] == []
    assert watched(tiny_monitor(), model=Uncountable())[1] == []
