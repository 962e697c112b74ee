"""The normalized margins of one layer, batch by batch, without waiting for the device and without its float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin
from lightning_gengap.network.rows import Rows


class LayerMargins:
    """Gathers gaps, gradients and activations; `metric` is the accumulator of them, on the CPU.

    On the CPU the accumulator takes every batch as it comes. On a device, sums in float32 would cancel where the mean
    dominates. There each batch is centred at its own mean, and the means are merged; nothing is read from the device
    until all batches are through. Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
    variance".
    """

    def __init__(self) -> None:
        self._metric = NormalizedMargin(sync_on_compute=False)
        self._rows = Rows()
        self._means: Tensor | None = None  # of every feature, over all samples so far
        self._steps: list[Tensor] = []  # how far each batch's means are from those before, as `_scaled_norms` gives it
        self._shares: list[float] = []  # what their squares count in the summed variation
        self._count = 0

    def add(self, gap: Tensor, gradient: Tensor, activation: Tensor) -> None:
        """Add a batch.

        Args:
            gap: logit gaps, shape (examples,).
            gradient: of the summed gaps by the activation, shape (examples, ...).
            activation: shape (examples, ...).
        """
        activation, gradient = activation.detach(), gradient.detach().reshape(len(gradient), -1)
        if activation.device.type == "cpu":
            self._metric.update(gap.detach().double() / _row_norms(gradient), activation)
        else:
            self._gather(
                gap.detach(), _at_least_float32(gradient), _at_least_float32(activation.reshape(len(activation), -1))
            )

    def metric(self) -> NormalizedMargin:
        """The accumulator of all batches."""
        if self._means is not None:
            gap, largest, norm, most, deviation = self._rows.on_cpu().double().unbind(1)
            merged = torch.cat([*self._steps, self._means]).cpu().double()
            steps, means = merged[: 2 * len(self._steps)].view(-1, 2).prod(1), merged[2 * len(self._steps) :]
            variation = (most * deviation).square().sum() + (steps.square() * torch.tensor(self._shares).double()).sum()
            self._metric = _OfSums(sync_on_compute=False)
            self._metric.update(
                gap / (largest * norm),
                self._count * means,
                variation + self._count * means.square().sum(),
                self._count,
            )
            self._means = None
        return self._metric

    def _gather(self, gap: Tensor, gradient: Tensor, activation: Tensor) -> None:
        largest, norm = _scaled_norms(gradient)
        mean = activation.mean(dim=0)
        most, deviation = _scaled_norms(activation - mean)
        self._rows.add(torch.stack([gap.to(norm), largest, norm, most.to(norm), deviation.to(norm)], dim=1))
        before, self._count = self._count, self._count + len(activation)
        step = mean if self._means is None else mean - self._means
        self._means = mean if self._means is None else self._means + step * (len(activation) / self._count)
        self._steps.append(torch.cat(_scaled_norms(step[None])))
        self._shares.append(before * len(activation) / self._count)


class _OfSums(NormalizedMargin):
    """The accumulator, given sums over examples instead of the examples."""

    def update(self, distance: Tensor, total: Tensor, squares: Tensor, count: int) -> None:  # type: ignore[override]
        self.add_sums(distance, total, squares, count)


def _scaled_norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitude of each row, and the norm over it: their product may leave the range of float32."""
    largest = rows.abs().amax(dim=1)
    return largest, vector_norm(rows / torch.where(largest > 0, largest, 1)[:, None], dim=1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _row_norms(rows: Tensor) -> Tensor:
    """Euclidean norm per example in float64; float32 sums unless they would leave their range (8 times slower)."""
    norms = vector_norm(rows, dim=1)
    if rows.dtype == torch.float64 or bool(((norms > 1e-15) & (norms < 1e15)).all()):
        return norms.double()
    return vector_norm(rows, dim=1, dtype=torch.float64)
