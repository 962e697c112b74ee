"""Ridge on more samples than are held at once, asked about some of them as if each of these had not been there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

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


@dataclass(frozen=True)
class SlicedRidge:
    """Sums over all samples, from which ridge of any strength follows.

    Rows are standardised by the tested samples, whose features that do not vary are left out. A strength is relative to
    the number of features, so that it is that of `left_out_scores`: there the kernel is the mean over them. Where all
    samples are fewer than the features, these are turned into as many: no score is changed by it.

    Attributes:
        centre, deviation: of the tested samples' features, shape (features,).
        varying: which features vary there.
        basis: of the standardised rows, shape (features, samples); None where these are enough.
        products: of the standardised rows, less their mean, shape (features, features).
        answers: of rows and labels, less their means, shape (features, classes).
        row_mean, label_mean: over all samples.
        count: the number of samples.
    """

    centre: Tensor
    deviation: Tensor
    varying: Tensor
    basis: Tensor | None
    products: Tensor
    answers: Tensor
    row_mean: Tensor
    label_mean: Tensor
    count: int

    @classmethod
    def of(
        cls, rows: Tensor, labels: Tensor, others: Iterable[tuple[Tensor, Tensor]] = (), few: bool = False
    ) -> SlicedRidge:
        """Gather the sums.

        Args:
            rows: float64, of the tested samples, shape (samples, features).
            labels: theirs, -1 or 1, shape (samples, classes).
            others: rows and labels of further samples, in slices, each of which is let go.
            few: whether all samples are fewer than the features; all are then held at once.
        """
        deviation = rows.std(0, correction=0)
        varying = deviation > 0
        centre, deviation = rows.mean(0)[varying], deviation[varying]
        slices: Iterable[tuple[Tensor, Tensor]] = chain([(rows, labels)], others)
        basis = None
        if few:
            slices = list(slices)
            held = (torch.cat([part for part, _ in slices])[:, varying] - centre) / deviation
            basis = torch.linalg.qr(held.T).Q
        width = len(centre) if basis is None else basis.shape[1]
        products, answers = rows.new_zeros(width, width), rows.new_zeros(width, labels.shape[1])
        row_sum, label_sum, count = rows.new_zeros(width), rows.new_zeros(labels.shape[1]), 0
        for part, part_labels in slices:
            standard = (part[:, varying] - centre) / deviation
            standard = standard if basis is None else standard @ basis
            products.addmm_(standard.T, standard)
            answers.addmm_(standard.T, part_labels)
            row_sum += standard.sum(0)
            label_sum += part_labels.sum(0)
            count += len(standard)
        products.addr_(row_sum, row_sum, alpha=-1 / count)
        answers.addr_(row_sum, label_sum, alpha=-1 / count)
        means = (row_sum / count, label_sum / count)
        return cls(centre, deviation, varying, basis, products, answers, *means, count)

    def centred(self, rows: Tensor) -> Tensor:
        """Rows as the sums hold them."""
        standard = (rows[:, self.varying] - self.centre) / self.deviation
        return (standard if self.basis is None else standard @ self.basis) - self.row_mean

    def solved(self, ridge: float) -> Solved:
        """Ridge of this strength."""
        loaded = self.products.clone()
        loaded.diagonal().add_(ridge * max(len(self.centre), 1))
        root = torch.linalg.cholesky(loaded)
        return Solved(root, torch.cholesky_solve(self.answers, root), self.label_mean, self.count)
