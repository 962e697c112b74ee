"""What can be a learning curve: which modules, fractions and loaders, and where it may be called."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from lightning.pytorch import LightningModule

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.learning_curves.part_training import trainer_class
from lightning_gengap.monitor.namespaces import TREES

FEWEST = 10  # samples of a part, and of what it is tested on
_OURS = ("dataset", "sampler", "batch_sampler", "batch_size")  # arguments of a loader that are not the user's


def checked_module(module: Any) -> LightningModule:
    """The module. Refuse what no Trainer trains, what one has trained, and any call inside a fit."""
    if trainer_class(module) is None:
        raise _refused(
            "module", type(module).__name__, "a LightningModule", "Write its training as a LightningModule first."
        )
    attached = vars(module).get("_trainer")
    if _in_a_fit() or getattr(getattr(attached, "state", None), "status", None) == "running":
        raise _refused(
            "module",
            "a call inside a running fit",
            "to be called before or after it, as it trains by itself",
            "Call it before the fit, and pass the result to whoever needs it.",
        )
    if getattr(attached, "global_step", 0) > 0:
        raise _refused(
            "module",
            f"a {type(module).__name__} that a Trainer has trained",
            "one before its first step, so that no part has seen what it is tested on",
            "Build it anew.",
        )
    return module


def checked_fractions(fractions: Any, tested_apart: bool) -> tuple[float, ...]:
    """The fractions in ascending order."""
    given = tuple(fractions) if isinstance(fractions, Sequence) and not isinstance(fractions, str) else (fractions,)
    most = 1.0 if tested_apart else 1.0 - 1e-9
    if not given or not all(isinstance(each, Real) and 0 < float(each) <= most for each in given):
        expected = "fractions above 0 and at most 1" if tested_apart else "fractions between 0 and 1"
        raise _refused("fractions=", repr(fractions), expected, "For example (1/8, 1/4, 1/2); for 1 pass test= too.")
    return tuple(sorted({float(each) for each in given}))


def checked_loader(loader: Mapping[str, Any] | None, batch_size: Any) -> dict[str, Any]:
    """All arguments of the training loader but its data."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise _refused("batch_size=", repr(batch_size), "a whole number of at least 1", "For example batch_size=64.")
    taken = [name for name in _OURS if name in (loader or {})]
    if taken:
        raise _refused(
            "loader=",
            f"the argument {taken[0]}",
            "arguments that suit any part of the data",
            "Which samples a part has is decided by its fraction; pass batch_size= by itself.",
        )
    return {"shuffle": True, **(loader or {}), "batch_size": int(batch_size)}


def sizes_of(fractions: Sequence[float], samples: int, tested_apart: bool, options: Mapping[str, Any]) -> list[int]:
    """The number of samples of each part, none of whose batches holds one sample alone."""
    batch, drops = options["batch_size"], options.get("drop_last", False)
    sizes = [round(fraction * samples) for fraction in fractions]
    sizes = [size - 1 if size % batch == 1 and size > batch > 1 and not drops else size for size in sizes]
    least = max(FEWEST, batch if drops else 0)
    if sizes[0] < least or (not tested_apart and samples - sizes[-1] < FEWEST) or len(set(sizes)) < len(sizes):
        raise _refused(
            "fractions=",
            f"parts of {', '.join(map(str, sizes))} of {samples} samples",
            f"different parts of at least {least} samples, which leave {FEWEST} to test on",
            "Pass other fractions" + (", or smaller batches." if drops else "."),
        )
    return sizes


def _in_a_fit() -> bool:
    """Whether a Trainer is at work among the callers."""
    trainers = tuple(tree.Trainer for tree in TREES)
    frames = (frame for frame, _ in traceback.walk_stack(None) if frame.f_code.co_name == "_run_stage")
    return any(isinstance(frame.f_locals.get("self"), trainers) for frame in frames)


def _refused(argument: str, got: str, expected: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"learning_curve({argument})", got=got, expected=expected, remedy=remedy)
