"""What a ridge sees of a vector: how near it is to each of some training samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.measures.difficulty.leave_one_out_scores import squared_distances

LANDMARKS = 512
WIDTHS = (0.3, 1.0, 3.0)  # of the bells, squared, in units of the number of features
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the ridge


@dataclass(frozen=True)
class LandmarkFeatures:
    """Maps vectors to the heights of Gaussian bells around landmarks.

    Attributes:
        centre, deviation: of each feature of the samples that it was made from, shape (features,).
        landmarks: the first of these, standardised, shape (landmarks, features).
        width: of the bells, squared, in units of the number of features.
    """

    centre: Tensor
    deviation: Tensor
    landmarks: Tensor
    width: float

    @classmethod
    def of(cls, vectors: Tensor, width: float) -> LandmarkFeatures:
        """Bells around the first of these vectors."""
        vectors = vectors.double()
        deviation = vectors.std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.inf)  # what does not vary says nothing
        centre = vectors.mean(0)
        return cls(centre, deviation, (vectors[:LANDMARKS] - centre) / deviation, width)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Shape (examples, landmarks), float64, in (0, 1]."""
        standard = (vectors.double() - self.centre) / self.deviation
        return torch.exp(squared_distances(standard, self.landmarks) / (-2 * self.width * max(standard.shape[1], 1)))
