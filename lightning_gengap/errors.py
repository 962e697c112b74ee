"""The errors a user can meet, all of one shape: what was got, what was expected, what to do."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

Error = TypeVar("Error", bound=BaseException)


class GapError(ValueError):
    """A clear refusal: every message names its subject, what was got, what was expected and a remedy.

    Attributes:
        subject: what was refused.
        may_pass: whether training can go on and may cure it: nothing is wrong with what the user wrote.
    """

    may_pass = False

    def __init__(self, subject: str, *, got: str, expected: str, remedy: str) -> None:
        super().__init__(f"{subject}: got {got}; expected {expected}. {remedy}")
        self.subject = subject
        self._parts = {"got": got, "expected": expected, "remedy": remedy}

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to copy it: an error that a worker process raises is pickled on its way to the user."""
        return partial(type(self), **self._parts), (self.subject,)


class BatchError(GapError):
    """A batch whose inputs or targets cannot be found."""


class TargetError(GapError):
    """Targets that are not class indices."""


class LogitsError(GapError):
    """Model outputs that are not finite logits of shape (batch, classes)."""


class DataError(GapError):
    """A data set with nothing to measure: empty, or with a single class."""


class LayerError(GapError):
    """A layer name that the traced forward did not meet."""


class MeasureError(GapError):
    """An unknown measure, one that failed, or want of memory to measure at all."""

    may_pass = True  # unknown ones are refused before anything is measured


class PredictorError(GapError):
    """An unknown, damaged or foreign predictor file."""


class ConfigurationError(GapError):
    """Arguments or Trainer settings that cannot work together."""


class TableError(GapError):
    """A table of measured runs that cannot be used for fitting."""


class Undefined(Exception):  # noqa: N818
    """A measure, or one of its values, that does not exist for this model and these samples.

    A measure raises it for all its values, and returns it in place of one.

    Nothing is wrong then: `measures.compute` keeps the reason, and whoever measures says it to the user once.

    Attributes:
        reason: why, as the end of a sentence that begins "X is absent: ".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def frameless(error: Error) -> Error:
    """The error without its cause and the frames it passed, which keep alive whatever they had allocated."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
