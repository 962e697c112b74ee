"""What a user passes to the commands: a model, arrays, a checkpoint, observed gaps, fractions, arguments.

Each function either returns what it was asked for or raises a `ConfigurationError` that says what to pass instead.
"""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_gengap.errors import ConfigurationError, GapError
from lightning_gengap.predictors.recalibration import ObservedGap


def load_model(reference: str) -> nn.Module:
    """The module that the callable `module:callable` returns; its module is searched in the working directory first."""
    module, _, name = reference.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        model = getattr(importlib.import_module(module), name)()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _no_model(reference, _said(error)) from error
    if not isinstance(model, nn.Module):
        raise _no_model(reference, f"an object of type {type(model).__name__}")
    return model


def read_samples(path: Path) -> TensorDataset:
    """Training samples from an .npz file: `images` or `inputs`, and one label for each of them."""
    try:
        with np.load(path) as file:
            names = [name for name in ("images", "inputs") if name in file.files]
            if not names or "labels" not in file.files:
                raise _no_samples(path, f"arrays {', '.join(file.files) or '(none)'}")
            inputs, labels = (_in_native_order(file[name]) for name in (names[0], "labels"))
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise error if isinstance(error, ConfigurationError) else _no_samples(path, _said(error)) from None
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        raise _no_samples(path, f"inputs of shape {inputs.shape} and labels of shape {labels.shape}")
    try:
        return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
    except TypeError:
        raise _no_samples(path, f"inputs of {inputs.dtype} and labels of {labels.dtype}") from None


def _in_native_order(array: Any) -> np.ndarray[Any, Any]:
    """The array in the byte order of this machine, which torch wants; a member that is no array is refused."""
    if not isinstance(array, np.ndarray):
        raise TypeError("a member that is no array")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def restore_weights(model: nn.Module, path: Path) -> dict[str, Tensor] | None:
    """Load a checkpoint or a state dict into the model; give the weights before training that `GapMonitor` kept."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(content.get("state_dict", content))
        callbacks = content.get("callbacks", {})
        kept = (state for key, state in callbacks.items() if key.startswith("GapMonitor") and state)
        initial = next((state["memory"]["initial_state"] for state in kept), None)
        return None if initial is None else {name: weight.clone() for name, weight in initial.items()}
    except Exception as error:  # a foreign file can make torch raise nearly anything
        raise ConfigurationError(
            f"--checkpoint {path}",
            got=_said(error),
            expected="a Lightning checkpoint or a state dict whose names and shapes are those of --model",
            remedy="Save it with trainer.save_checkpoint(path), or with torch.save(model.state_dict(), path).",
        ) from None


@contextmanager
def explaining_failures(samples: TensorDataset) -> Iterator[None]:
    """Refuse a model that fails in the block, on inputs of another shape or dtype than it takes for instance."""
    inputs = samples.tensors[0]
    try:
        yield
    except GapError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ConfigurationError(
            "--model with --data",
            got=_said(error),
            expected=f"a model that takes inputs of shape {tuple(inputs.shape)} and {inputs.dtype}",
            remedy="Save the arrays as the model's forward takes them.",
        ) from error


def read_observed_gaps(path: Path) -> list[ObservedGap]:
    """Measured values, the gap that was observed with them and on how many samples, from a JSON list.

    Values that are not numbers are left out. No predictor needs them.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [
            ObservedGap(
                {name: float(value) for name, value in pair["values"].items() if isinstance(value, int | float)},
                float(pair["gap"]),
                pair["samples"],
                pair.get("same", "task"),
            )
            for pair in listed
        ]
    except (AttributeError, KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ConfigurationError(
            str(path),
            got=_said(error),
            expected='a JSON list of {"values": {...}, "gap": 0.12, "samples": 1000, "same": "recipe" or "task"}',
            remedy="Take the values from `gengap measure`, and the gap from so many held-out samples.",
        ) from None


def read_fractions(text: str) -> list[float]:
    """Numbers between commas, also as quotients: `1/8,0.25`."""
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"--fractions {text}",
            got=_said(error),
            expected="fractions between commas",
            remedy="For example --fractions 1/8,1/4,1/2.",
        ) from None


def read_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object that an option holds."""
    try:
        held = json.loads(text)
        if not isinstance(held, dict):
            raise TypeError(f"a {type(held).__name__}")
    except (RecursionError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{option} {text}",
            got=_said(error),
            expected="a JSON object of arguments",
            remedy=f"""For example {option} '{{"gradient_clip_val": 1.0}}'.""",
        ) from None
    return held


def _no_model(reference: str, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"--model {reference}",
        got=got,
        expected="module:callable, importable from here, which returns a torch module when called without arguments",
        remedy="For example --model my_project.model:build.",
    )


def _no_samples(path: Path, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"--data {path}",
        got=got,
        expected="an .npz file with `images` or `inputs`, as the model takes them, and as many `labels`",
        remedy="Write it with numpy.savez(path, inputs=..., labels=...).",
    )


def _said(error: BaseException) -> str:
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
