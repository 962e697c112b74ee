"""One fitted network on its samples, with the exact curvature of its float64 copy: the plainest reference."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch, default_forward

CHUNK = 128
DENSE = 5000  # rows of a Hessian that is written out


class Task:
    """The Gauss-Newton matrix from the explicit Jacobian; the Hessian dense, or its ends by ARPACK.

    Derivatives are the `reference`'s, a copy of the model in the given precision; sums over them are in float64.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor, precision: torch.dtype) -> None:
        self.model, self.inputs, self.labels = model.eval(), inputs, labels
        self.parts = list(zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True))
        first = self.parts[0]
        self.layout = Layout.of(model, ProbeBatch(first, first[1], first[0]), default_forward)
        self.reference, self.precision = copy.deepcopy(model).to(precision).eval(), precision
        rows = self._rows()
        self.diagonal = torch.cat([part.double().square().sum(0) for part in rows.split(2**14, dim=1)])
        gram = sum(part.double() @ part.double().T for part in rows.split(2**14, dim=1))
        spectrum = torch.linalg.eigvalsh(gram).clamp(min=0)
        self.trace, self.top = float(spectrum.sum()), float(spectrum[-1])
        self.soft_rank = float((spectrum / (spectrum + ASSUMED_RIDGE)).sum())

    def _rows(self) -> Tensor:
        """B^T J / sqrt(n), from which G = rows^T rows."""
        parameters, rows = list(self.reference.parameters()), []
        for sample in self.inputs.to(self.precision):
            logits = self.reference(sample[None])[0]
            p = logits.detach().softmax(0)
            for column in p.sqrt()[:, None] * (torch.eye(len(p), dtype=p.dtype) - p):
                parts = torch.autograd.grad(logits, parameters, column, retain_graph=True)
                rows.append(torch.cat([part.flatten() for part in parts]) / len(self.inputs) ** 0.5)
        return torch.stack(rows)

    def hessian_ends(self) -> tuple[float, float, float | None]:
        """Largest and smallest eigenvalue of the Hessian, and its trace where it is dense."""
        parameters = list(self.reference.parameters())
        gradient = torch.autograd.grad(
            cross_entropy(self.reference(self.inputs.to(self.precision)), self.labels), parameters, create_graph=True
        )
        flat = torch.cat([part.flatten() for part in gradient])

        def product(vector: Any) -> Any:
            parts = torch.autograd.grad(flat, parameters, torch.as_tensor(vector).flatten().to(flat), retain_graph=True)
            return torch.cat([part.flatten() for part in parts]).numpy()

        if len(flat) <= DENSE:
            matrix = np.stack([product(row) for row in np.eye(len(flat))])
            values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
            return float(values[-1]), float(values[0]), float(np.trace(matrix))
        operator = LinearOperator((len(flat),) * 2, matvec=product, dtype=np.float64)
        goal = 1e-9 if self.precision == torch.float64 else 1e-4
        largest, smallest = (eigsh(operator, k=1, which=end, tol=goal)[0][0] for end in ("LA", "SA"))
        return float(largest), float(smallest), None

    def probe(self, seed: int = 0) -> Probe:
        """A probe of all samples, with nothing shared yet."""
        batches = tuple(ProbeBatch((inputs, labels), labels, inputs) for inputs, labels in self.parts)
        return Probe(model=self.model, batches=batches, layout=self.layout, train_samples=50_000, seed=seed)

    def plain(self) -> None:
        """A forward over all samples."""
        with torch.no_grad():
            for inputs, _ in self.parts:
                self.model(inputs)


def kept(found: list[Any], work: Callable[[int], Any], seed: int) -> None:
    """Put away what the timed work returns."""
    found.append(work(seed))
