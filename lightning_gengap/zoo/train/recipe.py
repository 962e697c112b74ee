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
        epochs: planned; a snapshot is taken after the first and then every `snapshot_every`.
        group_norm: group instead of batch normalisation (ResNet, MobileNet).
        pretrained: the network is first trained on the source's other classes, and only its last layer starts anew.
        grid: name of the full grid of hyperparameters that the run belongs to; empty for none.
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

    @property
    def key(self) -> str:
        """The run's identity: a hash of all that determines it."""
        return hashlib.sha256(json.dumps(described(self), sort_keys=True).encode()).hexdigest()[:16]


def described(recipe: Recipe | Task) -> dict[str, Any]:
    """Fields and values without those at a default, so that a new field leaves the identity of older runs alone."""
    defaults = {field.name: field.default for field in fields(recipe)}
    content = {name: value for name, value in asdict(recipe).items() if value != defaults[name]}
    if isinstance(recipe, Recipe):
        content["task"] = described(recipe.task)
    return content


def recipe_of(content: dict[str, Any]) -> Recipe:
    """The recipe that a run's file describes."""
    task = {**content["task"], "classes": tuple(content["task"]["classes"])}
    return Recipe(**{**content, "task": Task(**task)})
