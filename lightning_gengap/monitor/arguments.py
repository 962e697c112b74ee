"""The arguments of GapMonitor: ones that cannot work are refused before any training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral, Real
from pathlib import Path

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.held_out import check_held_out
from lightning_gengap.network.layers import check_layers
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.samples.drawing import check_probe_data

_EXAMPLES = {
    "predictor": "'default'",
    "every_n_epochs": "1",
    "every_n_train_steps": "500",
    "samples": "1024",
    "budget": "0.05",
    "verbosity": "'normal'",
    "on_error": "'warn'",
    "measures": "['soft_rank']",
    "validation_accuracy": "'val_acc'",
    "forward": "lambda module, batch: module(batch[0])",
    "target": "lambda batch: batch[1]",
    "seed": "0",
    "evidence": "[(values, 0.12, 1000, 'recipe')]",
}


def check_arguments(
    *,
    predictor: object,
    every_n_epochs: object,
    every_n_train_steps: object,
    samples: object,
    budget: object,
    probe_data: object,
    layers: object,
    validation_accuracy: object,
    verbosity: object,
    on_error: object,
    measures: object,
    forward: object,
    target: object,
    seed: object,
    held_out: object,
    evidence: object,
) -> None:
    """Refuse arguments of another type or out of their range.

    Raises:
        ConfigurationError, LayerError, BatchError, DataError: one that cannot work.
    """
    kinds = str | Path | Predictor | None
    _require("predictor", predictor, isinstance(predictor, kinds), "a name, a path, a Predictor or None")
    _require("every_n_epochs", every_n_epochs, _is_whole(every_n_epochs, 1), "a whole number of at least 1")
    steps, of_steps = every_n_train_steps, "a whole number of at least 1, or None"
    _require("every_n_train_steps", steps, steps is None or _is_whole(steps, 1), of_steps)
    if steps is not None and every_n_epochs != 1:
        raise ConfigurationError(
            "GapMonitor(every_n_train_steps=)",
            got=repr(steps),
            expected=f"None beside every_n_epochs={every_n_epochs}",
            remedy="Pass one of the two.",
        )
    _require("samples", samples, _is_whole(samples, 20), "a whole number of at least 20")
    is_share = isinstance(budget, Real) and not isinstance(budget, bool) and 0 < float(budget) <= 1
    _require("budget", budget, budget is None or is_share, "a share in (0, 1], or None")
    named = validation_accuracy is None or isinstance(validation_accuracy, str)
    _require("validation_accuracy", validation_accuracy, named, "the key of a logged accuracy, or None")
    _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
    _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")
    several = isinstance(measures, Collection) and not isinstance(measures, str)
    are_names = several and all(isinstance(name, str) for name in measures)  # type: ignore[attr-defined]
    _require("measures", measures, are_names, "a sequence of names")
    _require("forward", forward, forward is None or callable(forward), "a function of module and batch, or None")
    _require("target", target, target is None or callable(target), "a function of a batch, or None")
    _require("seed", seed, _is_whole(seed), "a whole number")
    if layers is not None:
        check_layers(layers)
    if probe_data is not None:
        check_probe_data(probe_data)
    alone = isinstance(evidence, str | Mapping) or hasattr(evidence, "_fields")  # a pair or an estimate without a list
    listed = evidence is None or (isinstance(evidence, Collection) and not alone)
    _require("evidence", evidence, listed, "a list of pairs and estimates")
    if held_out is not None:
        check_held_out(held_out)
    for name, given in (("held_out", held_out), ("evidence", evidence)):
        if given is not None and predictor is None:
            raise ConfigurationError(
                f"GapMonitor({name}=)",
                got="no predictor",
                expected="one, whose prediction is joined with the evidence",
                remedy="Leave predictor=None out.",
            )


def check_source(source: object, predictor: Predictor | None) -> None:
    """Refuse a data set that the predictor was not fitted on.

    Raises:
        ConfigurationError: it is none of `Predictor.sources`.
    """
    known = () if predictor is None else predictor.sources
    if source is None or (isinstance(source, str) and source in known):
        return
    which = "the predictor" if predictor is None else predictor.name
    raise ConfigurationError(
        "GapMonitor(source=)",
        got=repr(source),
        expected=f"a data set that {which} was fitted on ({', '.join(known) or 'it names none'})",
        remedy="Leave it out where the training data are others.",
    )


def _is_whole(value: object, least: float = float("-inf")) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        example = f"For example {argument}={_EXAMPLES[argument]}."
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy=example)
