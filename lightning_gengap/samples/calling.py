"""How a model is called on a batch: chosen once, on the first batch, and then the same for all."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_gengap.errors import BatchError, GapError, LogitsError, one_line, out_of_memory
from lightning_gengap.samples.batches import INPUT_KEYS, TARGET_KEYS, Forward, hooks_for, inputs_of
from lightning_gengap.samples.nested import flat_tensors, handed_out

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def default_forward(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on the inputs of the batch, and on its other tensors that the model's `forward` names.

    A mapping is asked for every parameter of `forward` by name, an attention mask say, and an object for its
    attributes. Targets are never passed.
    """
    positional, named = _arguments(model, batch)
    return _called(model, batch, positional, named)


def on_inputs_alone(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on the inputs of the batch as one argument, whatever they hold."""
    return _called(model, batch, (inputs_of(batch),), {})


def on_spread_inputs(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on inputs that are several, each an argument of its own."""
    inputs = inputs_of(batch)
    if isinstance(inputs, Mapping):
        return _called(model, batch, (), {str(key): part for key, part in inputs.items()})
    return _called(model, batch, tuple(inputs) if _is_several(inputs) else (inputs,), {})


def on_whole_batch(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on the batch itself, which holds the targets too."""
    return _called(model, batch, (batch,), {})


_OF_STRUCTURE = (AttributeError, LookupError, TypeError, ValueError)  # what a wrong argument raises as a rule
_WAYS: tuple[Forward, ...] = (default_forward, on_inputs_alone, on_spread_inputs, on_whole_batch)


def chosen_forward(model: nn.Module, batch: Any, logits_in: Callable[[Any], Tensor]) -> tuple[Forward, Tensor]:
    """The first way to call the model that works on this batch, and its logits there.

    `logits_in` finds them in an output, or raises.

    `default_forward` comes first. A `forward` that takes the whole batch, or all inputs as one mapping or tuple, is
    found by trying. Nothing is tried again at later batches.

    Raises:
        LogitsError: none works; the message is that of the first way, and says what to pass.
        RuntimeError or another: of the network itself, at the first way.
    """
    first: Exception | None = None
    for way in _WAYS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ways that are wrong
                logits = logits_in(way(model, handed_out(batch)))
        except Exception as error:
            if out_of_memory(error):
                raise
            first = first or error
        else:
            return way, logits
    assert first is not None
    if isinstance(first, GapError) or not isinstance(first, _OF_STRUCTURE):
        raise first
    refusal = _refusal(model, batch, first)
    refusal.may_pass = True  # the network may fail for another reason than the way that it is called
    raise refusal from first


def _called(model: nn.Module, batch: Any, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    try:
        output: Tensor = model(*positional, **named)
    except (NotImplementedError, TypeError) as error:
        raise _refusal(model, batch, error) from error
    return output


def _refusal(model: nn.Module, batch: Any, error: Exception) -> LogitsError:
    return LogitsError(
        "model forward",
        got=one_line(error),
        expected="that the model, called with the inputs of a batch, returns logits",
        remedy=f"Pass {hooks_for(batch, network=_network_of(model, error))}, or another that returns the logits.",
    )


def _network_of(model: nn.Module, error: Exception) -> str:
    """What to call, as it would be written: of a module without a `forward` the only part that has weights."""
    if not isinstance(error, NotImplementedError):
        return "module"
    parts = [name for name, part in model.named_children() if next(part.parameters(), None) is not None]
    return f"module.{parts[0]}" if len(parts) == 1 else "module.<the network>"


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for the model's `forward`: by name where it names them, else the inputs alone."""
    parameters = parameters_of(model)
    needed = [each.name for each in parameters if each.kind in _POSITIONAL and each.default is inspect.Parameter.empty]
    try:
        inputs = inputs_of(batch)
    except BatchError:  # parts with names of the user's own, by which `forward` takes them
        named = _held(batch, parameters)
        if needed and set(needed) <= set(named):
            return (), named
        raise
    if _has_names_alone(parameters):
        return (), _held(batch, parameters)
    if isinstance(inputs, Mapping) and (needed or _takes_any_name(parameters)) and set(needed) <= set(inputs):
        return (), _named(inputs, parameters)
    if len(needed) > 1 and _is_several(inputs):
        return tuple(inputs), {}
    named = _others(batch, parameters)
    free = next((each for each in parameters if each.kind in _POSITIONAL and each.name not in named), None)
    if free is None or free is next(iter(parameters), None):
        return (inputs,), named
    return (), {free.name: inputs, **named}


def parameters_of(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of the model's own `forward`, without what compilation or distribution wraps around it."""
    forward = _unwrapped(model).forward
    try:
        schema = getattr(forward, "schema", None)  # of TorchScript
        if schema is not None:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            empty = inspect.Parameter.empty
            return [
                inspect.Parameter(each.name, kind, default=each.default_value if each.has_default_value() else empty)
                for each in schema.arguments[1:]
            ]
        return list(inspect.signature(forward).parameters.values())
    except (AttributeError, TypeError, ValueError):
        return []


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _others(batch: Any, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The tensors of a batch, neither inputs nor targets, that a forward with these parameters takes by name."""
    return {key: part for key, part in _held(batch, parameters).items() if key not in INPUT_KEYS}


def _held(batch: Any, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The tensors of a batch, targets apart, that a forward with these parameters takes by name."""
    if isinstance(batch, list | tuple):
        return {}
    if isinstance(batch, Mapping):
        held = _named(batch, parameters)
    else:
        names = [each.name for each in parameters if each.kind in _BY_NAME]
        held = {name: getattr(batch, name) for name in names if hasattr(batch, name)}
    return {key: part for key, part in held.items() if key not in TARGET_KEYS and flat_tensors(part)}


def _named(held: Mapping[Any, Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The part of `held` that a forward with these parameters takes by name."""
    names = {each.name for each in parameters if each.kind in _BY_NAME}
    anything = _takes_any_name(parameters)
    return {str(key): part for key, part in held.items() if key in names or (anything and str(key).isidentifier())}


def _has_names_alone(parameters: list[inspect.Parameter]) -> bool:
    """Whether a forward takes everything by name, as `forward(self, **batch)` does, and nothing by position."""
    kinds = {each.kind for each in parameters}
    positional = {*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL}
    return bool(kinds) and not kinds & positional


def _takes_any_name(parameters: list[inspect.Parameter]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def _is_several(inputs: Any) -> bool:
    """Whether inputs are a plain sequence of several; a named tuple, such as packed sequences, is one input."""
    return isinstance(inputs, list | tuple) and not hasattr(inputs, "_fields") and len(inputs) > 1
