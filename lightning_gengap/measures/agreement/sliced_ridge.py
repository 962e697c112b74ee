"""Ridge on more samples than are held at once, asked about some of them as if each of these had not been there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solved:
    """Ridge of one strength, on all samples.

    With the rows x and labels y of all n samples centred, the weights w solve (X^T X + r I) w = X^T y. A sample's
    leverage is h = x^T (X^T X + r I)^-1 x + 1 / n, because the mean is not penalised.

    Attributes:
        root: the lower root of X^T X + r I, shape (features, features).
        weights: shape (features, classes).
        mean: of the labels, shape (classes,).
        count: n.
    """

    root: Tensor
    weights: Tensor
    mean: Tensor
    count: int

    def left_out(self, rows: Tensor, labels: Tensor, seen: Tensor | None = None) -> Tensor:
        """The scores of some of the samples, each by the ridge without it; shape (samples, classes).

        The ridge without sample x says y_hat(z) - k (y - y_hat(x)) / (1 - h) of any point z, with
        k = z^T (X^T X + r I)^-1 x + 1 / n: exactly what a refit says.

        Args:
            rows: theirs, centred.
            labels: theirs, -1 or 1, shape (samples, classes).
            seen: rows that stand in for them when they are tested, such as copies of them; None for their own.
        """
        whitened = torch.linalg.solve_triangular(self.root, rows.T, upper=False)
        error = labels - (rows @ self.weights + self.mean)
        leverage = whitened.square().sum(0) + 1 / self.count
        if seen is None:
            shared, said = leverage, labels - error
        else:
            others = torch.linalg.solve_triangular(self.root, seen.T, upper=False)
            shared, said = (whitened * others).sum(0) + 1 / self.count, seen @ self.weights + self.mean
        return said - (shared / (1 - leverage))[:, None] * error


@dataclass
class SlicedRidge:
    """Sums over the samples that are in, from which ridge of any strength follows.

    Rows are standardised by the tested samples, whose features that do not vary are left out. A strength is relative to
    the number of features, so that it is that of `left_out_scores`: there the kernel is the mean over them.

    Attributes:
        centre, deviation: of the tested samples' features, shape (features,).
        varying: which features vary there.
        products: sums of products of the standardised rows, shape (features, features).
        answers: of the rows and labels, shape (features, classes).
        row_sum, label_sum: of both alone.
        count: the number of samples.
        basis: of the standardised rows, shape (features, samples), where these are the tested ones alone and fewer than
            the features; no score is changed by it. None otherwise.
    """

    centre: Tensor
    deviation: Tensor
    varying: Tensor
    products: Tensor
    answers: Tensor
    row_sum: Tensor
    label_sum: Tensor
    count: Tensor
    basis: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor, labels: Tensor, alone: bool = False) -> SlicedRidge:
        """The sums of the tested samples.

        Args:
            rows: float64, shape (samples, features).
            labels: -1 or 1, shape (samples, classes).
            alone: whether no others will be added.
        """
        deviation = rows.std(0, correction=0)
        varying = deviation > 0
        centre, deviation, basis = rows.mean(0)[varying], deviation[varying], None
        if alone and len(rows) < len(centre):
            basis = torch.linalg.qr(((rows[:, varying] - centre) / deviation).T).Q
        width = len(centre) if basis is None else basis.shape[1]
        zeros = rows.new_zeros
        sums = (zeros(width, width), zeros(width, labels.shape[1]), zeros(width), zeros(labels.shape[1]))
        found = cls(centre, deviation, varying, *sums, torch.tensor(0), basis)
        found.add(rows, labels)
        return found

    @classmethod
    def restored(cls, kept: Mapping[str, Tensor]) -> SlicedRidge:
        """The sums that were `kept`, whose tensors are not changed by what is added."""
        return cls(**{name: tensor.clone() for name, tensor in kept.items()})

    def kept(self) -> dict[str, Tensor]:
        """What goes on later; there is no basis."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Take in further samples, which are let go."""
        standard = self._standardised(rows)
        self.products.addmm_(standard.T, standard)
        self.answers.addmm_(standard.T, labels)
        self.row_sum += standard.sum(0)
        self.label_sum += labels.sum(0)
        self.count += len(standard)

    def centred(self, rows: Tensor) -> Tensor:
        """Rows as the ridge sees them."""
        return self._standardised(rows) - self.row_sum / self.count

    def solved(self, ridge: float) -> Solved:
        """Ridge of this strength."""
        count = int(self.count)
        loaded = self.products.addr(self.row_sum, self.row_sum, alpha=-1 / count)
        loaded.diagonal().add_(ridge * max(len(self.centre), 1))
        root = torch.linalg.cholesky(loaded)
        answers = self.answers.addr(self.row_sum, self.label_sum, alpha=-1 / count)
        return Solved(root, torch.cholesky_solve(answers, root), self.label_sum / count, count)

    def _standardised(self, rows: Tensor) -> Tensor:
        standard = (rows[:, self.varying] - self.centre) / self.deviation
        return standard if self.basis is None else standard @ self.basis
