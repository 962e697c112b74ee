"""Extremely randomised trees, each asked about the samples alone that it was not grown on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import A_SECOND, require_time
from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement.answers import Said
from lightning_gengap.measures.agreement.fitting import Judged, Price, in_units, inputs_like, number_of_others
from lightning_gengap.measures.difficulty.compared_samples import compared_inputs
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch

TREES = 100
MOST_INPUTS = 2**14  # of one sample
A_NUMBER = 30e-9  # seconds that a level of a tree takes for a sample and a feature that it tries


def out_of_bag_shares(inputs: Tensor, targets: Tensor, seed: int, judged: int | None = None) -> Tensor:
    """The mean over trees of the class shares in the leaf, for each sample over the trees that did not see it.

    They are the trees of scikit-learn's forest with this seed. One is held at a time.

    Args:
        inputs: float32 on the CPU, shape (examples, features).
        targets: class indices, shape (examples,).
        seed: draws the trees.
        judged: how many of the samples, the first ones, are asked about; None for all.

    Returns:
        Shares, float64, shape (judged, classes); 0 for a sample that every tree has seen.

    Raises:
        Undefined: there are too many features, or some are not finite.
    """
    from sklearn.tree import ExtraTreeClassifier

    _require_few_finite(inputs)
    rows, labels = np.ascontiguousarray(inputs.numpy()), targets.numpy()
    first = rows[:judged]
    shares, asked = np.zeros((len(first), int(targets.max()) + 1)), np.zeros(len(first))
    seeds = np.random.RandomState(seed % 2**32)  # numpy knows no other seeds
    for _ in range(TREES):
        own = seeds.randint(np.iinfo(np.int32).max)
        drawn = np.random.RandomState(own).randint(0, len(rows), len(rows), dtype=np.int32)
        times = np.bincount(drawn, minlength=len(rows))
        tree = ExtraTreeClassifier(random_state=own).fit(rows, labels, times.astype(float), check_input=False)
        unseen = times[: len(first)] == 0
        if unseen.any():
            shares[np.ix_(unseen, tree.classes_)] += tree.predict_proba(first[unseen], check_input=False)
            asked[unseen] += 1
    return torch.from_numpy(shares / np.maximum(asked, 1)[:, None])


def cost_of(features: int, classes: int, samples: int) -> float:
    """What a sample of so many takes, in multiplications that take as long."""
    levels = math.log2(max(samples, 2)) + classes / 4
    return TREES * math.sqrt(features) * levels * A_NUMBER * A_SECOND


@dataclass
class Forest:
    """Out-of-bag shares of extremely randomised trees on the inputs.

    Attributes:
        judged, seed: the samples that it is asked about, and what draws the trees.
        own: the inputs of these as they are.
        numbers: flattens inputs to what trees are grown on.
        vectors, ranks: of all samples that are in, in slices, the judged ones first.
        most, price: see `Fit`. Trees are grown on all samples anew.
    """

    judged: Judged
    seed: int
    own: Tensor
    numbers: Callable[[Tensor], Tensor]
    vectors: list[Tensor]
    most: int
    price: Price
    ranks: list[Tensor] = field(default_factory=list)
    keeps: bool = False

    @classmethod
    def of(cls, probe: Probe, judged: Judged, kept: Mapping[str, Tensor]) -> Forest:
        """Trees on the judged samples; nothing is ever `kept`.

        Raises:
            Undefined: the inputs are no floats or too many, or it takes too much memory or time.
        """
        own = compared_inputs(probe, judged.rows)
        if own is None:
            raise OtherKind(probe.why_no_inputs)
        _require_scikit_learn()
        width = own[0].numel()
        cost = cost_of(width, len(judged.classes), len(probe.targets) + len(probe.others or ()))
        require_time(cost * len(own), f"trees on {len(own)} samples of {width} numbers")
        most = number_of_others(probe, judged, width, cost)
        require_room(4 * 2 * (len(own) + most) * width, f"{len(own) + most} samples of {width} numbers")
        numbers = in_units(own)
        vectors = numbers(own)
        _require_few_finite(vectors)
        price = Price(0.0, cost / A_SECOND, len(own) * cost / A_SECOND)
        return cls(judged, probe.seed, own, numbers, [vectors], most, price, [judged.ranks])

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """The inputs of a batch, flattened."""
        inputs = inputs_like(self.own, batch)
        return None if inputs is None else self.numbers(inputs)

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Hold the samples."""
        self.vectors.append(rows)
        self.ranks.append(ranks)

    def said(self) -> Said:
        """What trees say that are grown on all samples that are held."""
        self.vectors, self.ranks = [torch.cat(self.vectors)], [torch.cat(self.ranks)]
        (vectors,), (ranks,), classes = self.vectors, self.ranks, len(self.judged.classes)
        labels = torch.where(ranks < 0, classes, ranks)
        return Said(out_of_bag_shares(vectors, labels, self.seed, len(self.judged.rows))[:, :classes])

    def kept(self) -> dict[str, Tensor]:
        """Nothing: what it holds are the samples themselves."""
        return {}


def _require_scikit_learn() -> None:
    """Raise `Undefined` where there is torch alone, as on some machines with a GPU."""
    try:
        import sklearn.tree  # noqa: F401
    except ImportError:
        raise Undefined("scikit-learn is not installed") from None


def _require_few_finite(inputs: Tensor) -> None:
    """Raise `Undefined` for inputs that trees cannot take."""
    if inputs.shape[1] > MOST_INPUTS:
        raise Undefined(f"a sample has {inputs.shape[1]:,} inputs, more than {MOST_INPUTS:,}")
    if not bool(inputs.isfinite().all()):
        raise Undefined("the inputs are not all finite")
