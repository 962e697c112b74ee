"""Recipes: everything that determines a run, and nothing that does not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from lightning_gengap.zoo.train.task import Task


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        family: name of the architecture in `architectures.ARCHITECTURES`.
        width: see `architectures.Shape`, as for depth, norm, dropout and group_norm.
        augment: the training images are flipped and shifted at random.
        optimizer: `sgd` (momentum 0.9) or `adamw`.
        cosine: the learning rate follows a cosine to zero; otherwise it is constant.
        snapshot_every: epochs from one snapshot to the next; the first is taken after the first epoch.
        seed: of the initial weights, the order of the batches and the augmentation.
        pretrained: the network was trained on other classes of the source first; only its last layer starts anew.
        grid: name of the full grid of hyperparameters that the run belongs to; empty for none.
        plan: name of the plan of the third zoo that the run belongs to; empty for the plans before it.
        mixup: inputs and labels of two samples are mixed, in shares from a Beta distribution with this parameter (Zhang
            et al. 2018, arXiv 1710.09412); 0 for no mixing. Texts cannot be mixed.
        label_smoothing: share of every label that is spread over all classes.
    """

    task: Task
    family: str
    width: int
    depth: int
    norm: bool
    dropout: float
    weight_decay: float
    augment: bool
    optimizer: str
    learning_rate: float
    cosine: bool
    batch_size: int
    epochs: int
    snapshot_every: int
    seed: int
    group_norm: bool = False
    pretrained: bool = False
    grid: str = ""
    plan: str = ""
    mixup: float = 0.0
    label_smoothing: float = 0.0

    @property
    def key(self) -> str:
        """The run's identity: a hash of all that determines it."""
        return hashlib.sha256(json.dumps(described(self), sort_keys=True).encode()).hexdigest()[:16]


def described(recipe: Recipe | Task) -> dict[str, Any]:
    """Fields and their values, without those at their default: a new field does not change the keys of older runs."""
    defaults = {field.name: field.default for field in fields(recipe)}
    content = {name: value for name, value in asdict(recipe).items() if value != defaults[name]}
    if isinstance(recipe, Recipe):
        content["task"] = described(recipe.task)
    return content


def recipe_of(content: dict[str, Any]) -> Recipe:
    """The recipe that a run's file describes."""
    task = {**content["task"], "classes": tuple(content["task"]["classes"])}
    return Recipe(**{**content, "task": Task(**task)})
