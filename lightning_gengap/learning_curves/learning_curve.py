"""The module and recipe of a user, trained on parts of the data: accuracies there, and expected ones farther on."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from torch import nn
from tqdm import tqdm

from lightning_gengap.errors import ConfigurationError, DataError, sentence
from lightning_gengap.learning_curves.arguments import checked_fractions, checked_loader, checked_module, sizes_of
from lightning_gengap.learning_curves.curve import LearningCurve
from lightning_gengap.learning_curves.origin import Origin, fingerprint_of
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.learning_curves.part_files import read_part, write_part
from lightning_gengap.learning_curves.part_training import Recipe, copy_of, train_part
from lightning_gengap.learning_curves.readings import FEWEST_TESTED
from lightning_gengap.learning_curves.split import Split
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.labels import labels_of
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.stratified_split import stratified_order

_KNOWN = 0.5  # of the way from chance to perfection: no random weights are so good


def learning_curve(
    module: nn.Module,
    dataset: Any,
    fractions: Sequence[float] = (1 / 8, 1 / 4, 1 / 2),
    *,
    trainer: Mapping[str, Any],
    batch_size: int = 32,
    loader: Mapping[str, Any] | None = None,
    validation: Any = None,
    test: Any = None,
    probe_data: Any = None,
    forward: Forward | None = None,
    target: Target | None = None,
    labels: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> LearningCurve:
    """Train copies of a module on parts of its training data, and extrapolate the test accuracy to all and to more.

    The parts are stratified, drawn by seed, and nested: a smaller one is contained in a larger one. What a part leaves
    is its test set. Each training begins at the weights of `module` and at the same random state, in a Trainer of its
    own. The module, its mode and its weights, the data set, the random streams and the settings of torch stay as they
    are. The default costs 7/8 of a training on all samples, and some forwards.

    Args:
        module: a LightningModule, of either package, before its first step; it is copied.
        dataset: a map-style data set, with which all of it would be trained.
        fractions: of the samples, each below 1; with `test` a 1 is allowed.
        trainer: arguments of the Trainer, as of a training on all samples: `dict(max_epochs=20)`. Callbacks are copied
            for each part; those that write checkpoints, show progress or log what Lightning itself knows are left
            out. Unless they are asked for, there is one
            device, no logger and no checkpoint.
        batch_size: of training. A part has one sample less where the last batch would hold one alone.
        loader: further arguments of the training loader, `dict(num_workers=4, drop_last=True)` for instance. Batches
            are shuffled by default.
        validation: loaders that `fit` gets for validation, for callbacks that need one.
        test: a data set to test on, instead of what a part leaves.
        probe_data: the same samples as `dataset` without augmentation, index by index, to read accuracies on.
        forward: maps (module, batch) to logits, for unusual batches.
        target: maps a batch to class indices, for unusual batches.
        labels: the class of each sample, for data sets of which they cannot be found.
        seed: of the parts and of each training.
        out: a folder in which each finished part is kept. The same call then goes on where an earlier one ended.
        progress: whether a bar shows how much is trained, on terminals.

    Returns:
        The parts with their accuracies, `table()`, `figure()`, `extrapolate(samples)` and `estimate()`.

    Raises:
        ConfigurationError: arguments that cannot work, a module that was trained or cannot be copied, a call inside a
            fit, or a folder of another recipe or data set.
        DataError: data without an index or class indices, or a test set with samples of `dataset`.
        PartError: a training failed. What is in `out` stays.

    Example:
        >>> import torch
        >>> from lightning_gengap import learning_curve
        >>> class Linear(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(2, 2)
        ...
        ...     def forward(self, rows):
        ...         return self.net(rows)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters(), 0.1)
        >>> labels = torch.arange(400) % 2
        >>> rows = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) + 4 * labels[:, None]
        >>> data = torch.utils.data.TensorDataset(rows, labels)
        >>> _ = torch.manual_seed(0)  # of the initial weights
        >>> curve = learning_curve(Linear(), data, trainer=dict(max_epochs=10, accelerator="cpu"))
        >>> [part.samples for part in curve.parts], curve.extrapolate(1600).accuracy > 0.95
        ([50, 100, 200], True)
    """
    lightning_module = checked_module(module)
    copy_of(lightning_module)  # what cannot be copied is refused before anything is read or trained
    options = checked_loader(loader, batch_size)
    arguments = _checked_trainer(trainer)
    shares = checked_fractions(fractions, test is not None)
    classes = labels_of(dataset, labels)
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2:
        raise DataError("data set", got="a single class", expected="two classes or more", remedy="Check the labels.")
    sizes = sizes_of(shares, len(classes), test is not None, options)
    split = Split.of(dataset, stratified_order(classes, seed), options, probe_data, test, seed)
    tested = "what is left" if split.test is None else f"{len(split.test.indices)} others"
    origin = Origin.of(
        module,
        fingerprint_of(split.measured.dataset, target, options.get("collate_fn")),
        {**arguments, **options, "seed": seed, "tested on": tested},
    )
    recipe = Recipe(arguments, options, validation, forward, SampleReader(len(classes), seed, target), seed)
    split.check_test(recipe.reader)
    folder = None if out is None else _folder(out)
    parts = _trained(lightning_module, split, sizes, recipe, origin, folder, progress)
    curve = LearningCurve(parts, len(classes), float(((counts / counts.sum()) ** 2).sum()), origin)
    _warn_of_known_data(curve)
    return curve


def _trained(
    module: LightningModule,
    split: Split,
    sizes: Sequence[int],
    recipe: Recipe,
    origin: Origin,
    folder: Path | None,
    progress: bool,
) -> tuple[Part, ...]:
    """The parts of these sizes: from their files where they are finished, else trained."""
    finished = {size: None if folder is None else read_part(folder, size, origin) for size in sizes}
    planned = sum(size for size, part in finished.items() if part is None) * (recipe.trainer.get("max_epochs") or 0)
    parts = []
    with tqdm(total=max(planned, 0) or None, unit=" samples", disable=None if progress else True) as bar:
        for size, part in finished.items():
            if part is None:
                bar.set_description(f"training on {size} of {len(split.order)}")
                part = train_part(module, split.trained, *split.part(size), recipe, partial(bar.update, size))
                if folder is not None:
                    write_part(folder, part, origin)
            parts.append(part)
    return tuple(parts)


def _checked_trainer(trainer: Any) -> dict[str, Any]:
    if isinstance(trainer, Mapping):
        return dict(trainer)
    raise ConfigurationError(
        "learning_curve(trainer=)",
        got=type(trainer).__name__,
        expected="a mapping of arguments, of which a Trainer is made for each part",
        remedy="For example trainer=dict(max_epochs=20).",
    )


def _folder(out: str | Path) -> Path:
    """The folder for finished parts, made before anything is trained."""
    try:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        got = f"{folder}, which cannot be written to"
    except (OSError, TypeError) as error:
        got = sentence(error)
    raise ConfigurationError(
        "learning_curve(out=)", got=got, expected="a folder for finished parts", remedy="Choose another, or None."
    )


def _warn_of_known_data(curve: LearningCurve) -> None:
    """Say that the initial weights know the data, where they do: what they have seen is no test set."""
    first = curve.parts[-1]
    if first.epochs[0] > 0:
        return
    noise = 2 * math.sqrt(curve.chance * (1 - curve.chance) / FEWEST_TESTED)
    if first.test_accuracies[0] > curve.chance + _KNOWN * (1 - curve.chance) + noise:
        warnings.warn(
            f"the initial weights have an accuracy of {first.test_accuracies[0]:.2f} on what is tested. Where they were"
            " trained on samples of this data set, the curve is too good: build the module anew. Where they were "
            "pretrained on other data, all is well.",
            stacklevel=3,
        )
