"""The errors a user can meet, all of one shape: what was got, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from textwrap import shorten
from typing import Any, TypeVar

Error = TypeVar("Error", bound=BaseException)


class GapError(ValueError):
    """A refusal whose message says what was got, what was expected, and what to do.

    Attributes:
        subject: what was refused.
        may_pass: whether later training may cure it, as nothing is wrong with what the user wrote.
    """

    may_pass = False

    def __init__(self, subject: str, *, got: str, expected: str, remedy: str) -> None:
        super().__init__(f"{subject}: got {got}; expected {expected}. {remedy}")
        self.subject = subject
        self._parts = {"got": got, "expected": expected, "remedy": remedy}

    @property
    def parts(self) -> dict[str, str]:
        """What was got, what was expected, and the remedy, by these names."""
        return dict(self._parts)

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
    """A layer that the forward does not call, or that cannot be watched."""


class MeasureError(GapError):
    """A measure that is unknown or failed, or too little memory to measure at all."""

    may_pass = True  # unknown ones are refused before anything is measured


class PredictorError(GapError):
    """An unknown, damaged or foreign predictor file."""


class ConfigurationError(GapError):
    """Arguments or Trainer settings that cannot work together."""


class PartError(GapError):
    """A nested training, on a part of the data, that failed."""


class TableError(GapError):
    """A table of measured runs that cannot be used for fitting."""


class Undefined(Exception):  # noqa: N818
    """A value that does not exist for this model and these samples.

    A measure raises it where none of its values exists, and returns it in place of one that does not. Nothing is wrong
    then: `measures.compute` keeps the reason, and whoever measures tells the user once.

    Attributes:
        reason: why, as the end of a sentence that begins "X is absent: ".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OtherKind(Undefined):
    """A value of data of another kind than these, such as of texts where there are images.

    Whoever has not asked for its measure by name is not told.
    """


class Later(Undefined):
    """A value that comes with a later measurement. Nobody is told."""


def one_line(error: Exception) -> str:
    """The type of an error and the first line of its message, at most 160 characters of it, without a full stop."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160].rstrip('.') if lines else ''}"


def sentence(error: Exception) -> str:
    """The type of an error and its message in one line, as a sentence that another one can follow.

    Of an error that is none of ours, at most 600 characters are shown.
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if isinstance(error, GapError) else shorten(text, 600, placeholder=" ...")
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: torch has a type of its own only for some devices."""
    words = str(error).lower()
    texts = ("out of memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in words for text in texts))


@contextmanager
def naming_memory(what: str) -> Iterator[None]:
    """Raise a MeasureError that names what was being done where memory does not suffice for the block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, GapError) or not out_of_memory(error):
            raise
        raise MeasureError(
            what, got=one_line(error), expected="enough memory to measure", remedy="Use fewer samples."
        ) from error


def closest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is none of the known ones."""
    matches = get_close_matches(name, list(known), n=1)
    return f"Did you mean {matches[0]!r}?" if matches else "Check the spelling."


def frameless(error: Error) -> Error:
    """The error without its cause and its frames, which keep alive whatever they had allocated."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
