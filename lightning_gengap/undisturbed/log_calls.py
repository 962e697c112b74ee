"""What a forward logs while it is measured goes nowhere: it is no metric of the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_LOGS = ("log", "log_dict")
_LOGGED_FROM = "training_step"  # where a Trainer allows every kind of `log`
_NAMES = frozenset({"name", "version", "save_dir", "root_dir", "log_dir", "group_separator"})
_ABSENT = object()


def is_lightning(module: nn.Module) -> bool:
    """Whether a module is a LightningModule, of whichever installed package."""
    return any(base.__name__ == "LightningModule" for base in type(module).__mro__)


@contextmanager
def unlogged(model: nn.Module) -> Iterator[None]:
    """Let `self.log` of every LightningModule do nothing, and keep from the Trainer what is logged in another way.

    A `log` that another object holds reaches results that are thrown away, and the loggers are exchanged for ones that
    only tell where they stand.
    """
    exchanged: list[tuple[dict[str, Any], str, Any]] = []

    def exchange(attributes: dict[str, Any], name: str, value: Any) -> None:
        exchanged.append((attributes, name, attributes.get(name, _ABSENT)))
        attributes[name] = value

    try:
        for module in model.modules():
            if not is_lightning(module):
                continue
            for name in _LOGS:
                exchange(vars(module), name, _nothing)
            trainer = vars(module).get("_trainer")
            if trainer is not None:
                exchange(vars(module), "_current_fx_name", _LOGGED_FROM)
                for held, name, value in _stand_ins(trainer):
                    exchange(held, name, value)
        yield
    finally:
        for attributes, name, before in reversed(exchanged):
            if before is _ABSENT:
                attributes.pop(name, None)
            else:
                attributes[name] = before


def _stand_ins(trainer: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """What a Trainer has for its results and loggers in the meantime."""
    epoch_loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    for loop in (epoch_loop, getattr(epoch_loop, "val_loop", None)):
        if "_results" in getattr(loop, "__dict__", ()):
            yield vars(loop), "_results", _nothing
    connector = getattr(getattr(trainer, "_logger_connector", None), "__dict__", {})
    if "_current_fx" in connector:
        yield connector, "_current_fx", connector["_current_fx"]
    if isinstance(vars(trainer).get("_loggers"), list):
        yield vars(trainer), "_loggers", [_Unheard(logger) for logger in trainer._loggers]


class _Nothing:
    """Takes every call, and has every attribute and item. It is false, as results without a metric are."""

    def __call__(self, *args: object, **kwargs: object) -> None:
        return None

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: object) -> _Nothing:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        """Forget it."""

    def __bool__(self) -> bool:
        return False


_nothing = _Nothing()


class _Unheard:
    """A logger that logs nothing, and tells its name and folder."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._logger, name) if name in _NAMES else _nothing
