"""What a user passes to `gengap measure` and `gengap recalibrate`: a model, arrays, a checkpoint, observed gaps.

Each function either returns what it was asked for or raises a `ConfigurationError` that says what to pass instead.
"""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_gengap.errors import ConfigurationError


def load_model(reference: str) -> nn.Module:
    """The module that the callable `module:callable` returns; its module is searched in the working directory first."""
    module, _, name = reference.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        model = getattr(importlib.import_module(module), name)()
    except Exception as error:  # the user's code may raise anything
        raise _no_model(reference, _said(error)) from error
    if not isinstance(model, nn.Module):
        raise _no_model(reference, f"an object of type {type(model).__name__}")
    return model


def read_samples(path: Path) -> TensorDataset:
    """Training samples from an .npz file: `images` or `inputs`, and one label for each of them."""
    arrays: dict[str, Any] = {}
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _no_samples(path, _said(error)) from None
    inputs = next((arrays[name] for name in ("images", "inputs") if name in arrays), None)
    labels = arrays.get("labels")
    if inputs is None or labels is None:
        raise _no_samples(path, f"arrays {', '.join(arrays) or '(none)'}")
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        raise _no_samples(path, f"inputs of shape {inputs.shape} and labels of shape {labels.shape}")
    try:
        return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
    except TypeError:
        raise _no_samples(path, f"inputs of {inputs.dtype} and labels of {labels.dtype}") from None


def restore_weights(model: nn.Module, path: Path) -> dict[str, Tensor] | None:
    """Load a checkpoint or a state dict into the model; give the weights before training that `GapMonitor` kept."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(content.get("state_dict", content))
        callbacks = content.get("callbacks", {})
        kept = (state for key, state in callbacks.items() if key.startswith("GapMonitor") and state)
        return next((state["memory"]["initial_state"] for state in kept), None)
    except Exception as error:  # a foreign file can make torch raise nearly anything
        raise ConfigurationError(
            f"--checkpoint {path}",
            got=_said(error),
            expected="a Lightning checkpoint or a state dict whose names and shapes are those of --model",
            remedy="Save it with trainer.save_checkpoint(path), or with torch.save(model.state_dict(), path).",
        ) from None


def check_model_takes(model: nn.Module, samples: TensorDataset) -> None:
    """Refuse samples on which the model cannot compute: of another shape or dtype than it takes."""
    training = model.training
    inputs = samples.tensors[0][:2]
    try:
        with torch.no_grad():
            model.eval()(inputs)
    except Exception as error:  # the user's code may raise anything
        raise ConfigurationError(
            "--model with --data",
            got=_said(error),
            expected=f"a model that takes inputs of shape {tuple(inputs.shape)} and {inputs.dtype}",
            remedy="Save the arrays as the model's forward takes them.",
        ) from error
    finally:
        model.train(training)


def read_observed_gaps(path: Path) -> list[tuple[dict[str, float], float]]:
    """Pairs of measured values and the gap that was observed with them, from a JSON list."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [({name: float(value) for name, value in pair["values"].items()}, float(pair["gap"])) for pair in listed]
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ConfigurationError(
            str(path),
            got=_said(error),
            expected='a JSON list of {"values": {...}, "gap": 0.12}',
            remedy="Take the values from `gengap measure`, and the gap from held-out data.",
        ) from None


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


def _said(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
