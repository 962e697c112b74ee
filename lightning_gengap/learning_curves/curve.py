"""What trainings on parts of the data say of all of them, and of more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.learning_curves.origin import Origin, fingerprint_of
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.learning_curves.power_law import Estimate, PowerLaws
from lightning_gengap.samples.batches import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FARTHEST = 4  # times the samples that there are


@dataclass(frozen=True)
class LearningCurve:
    """Trainings of one recipe on parts of a data set, and what they say of larger ones.

    Attributes:
        parts: the trainings, the smallest first.
        samples: how many there are in all.
        chance: the accuracy of a guess that draws a class as often as it occurs.
        origin: the data and the recipe that it belongs to.
    """

    parts: tuple[Part, ...]
    samples: int
    chance: float
    origin: Origin

    def extrapolate(self, samples: float) -> Estimate:
        """The test accuracy of the recipe at the end of a training on so many samples, with its 90 % band.

        Args:
            samples: from the smallest part to four times all that there are.

        Raises:
            ConfigurationError: any other number. How far a curve can be trusted is in docs/learning_curve.md.
        """
        least, most = self.parts[0].samples, FARTHEST * self.samples
        if isinstance(samples, bool) or not isinstance(samples, Real) or not least <= samples <= most:
            raise ConfigurationError(
                "extrapolate(samples=)",
                got=repr(samples),
                expected=f"a number from {least} to {most}, {FARTHEST} times the samples that there are",
                remedy="Collect more data first: farther out, nothing is known of the law.",
            )
        return self._as_trained.at(float(samples))

    def estimate(self, train_accuracy: float | None = None) -> Estimate:
        """The test accuracy of a training on all samples, as evidence: an accuracy with its deviation.

        Args:
            train_accuracy: of that training, on its samples, in eval mode. Each part is then read where it had this
                train accuracy last, and as it ends where it ended below. None reads each at its end.

        Raises:
            ConfigurationError: a train accuracy that is no fraction.
        """
        if train_accuracy is None:
            return self._as_trained.at(self.samples)
        if not isinstance(train_accuracy, Real) or not 0 <= train_accuracy <= 1:
            raise ConfigurationError(
                "estimate(train_accuracy=)",
                got=repr(train_accuracy),
                expected="an accuracy fraction in [0, 1], or None",
                remedy="Pass 0.97 for 97 %.",
            )
        return self._laws([part.test_accuracy_at(float(train_accuracy)) for part in self.parts]).at(self.samples)

    def differences(
        self,
        module: nn.Module,
        dataset: Any,
        target: Target | None = None,
        collate: Any = None,
        training: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Why the curve is no evidence for this module on these training samples, in words; nothing where it is.

        Compared are the class of the module, the shapes of its parameters, its layers and its hyperparameters, the
        number of samples, and 256 of these; of the arguments in `training` those that the curve was given too.
        """
        told = {name: value for name, value in (training or {}).items() if name in self.origin.training}
        other = Origin.of(module, fingerprint_of(dataset, target, collate), told)
        own = {name: value for name, value in self.origin.training.items() if name in told}
        return replace(self.origin, training=own).differences(other)

    def table(self) -> str:
        """The trainings and what follows from them, as Markdown: accuracies in points, with 90 % bands."""
        rows = ["| samples | train accuracy | test accuracy | gap | |", "|---|---|---|---|---|"]
        for part in self.parts:
            train, test = 100 * part.train_accuracy, 100 * part.test_accuracy
            rows.append(
                f"| {part.samples} | {train:.1f} | {test:.1f} | {train - test:.1f} | trained, {part.tested} tested |"
            )
        for samples, name in self.farther():
            at = self.extrapolate(samples)
            band = f"{100 * at.lower:.1f} to {100 * at.upper:.1f}"
            rows.append(f"| {samples} | | {100 * at.accuracy:.1f} | | expected{name}, {band} |")
        return "\n".join(rows)

    def figure(self, path: str | Path | None = None) -> Figure:
        """The curve with its band over the number of samples, written to `path` too where one is given.

        Raises:
            ConfigurationError: matplotlib is not installed.
        """
        from lightning_gengap.learning_curves.figure import draw

        return draw(self, path)

    def farther(self) -> list[tuple[int, str]]:
        """The numbers of samples that a curve is asked about, and what they are."""
        return [(self.samples, " with all"), (2 * self.samples, " with twice"), (4 * self.samples, " with four times")]

    def __str__(self) -> str:
        return self.table()

    @cached_property
    def _as_trained(self) -> PowerLaws:
        return self._laws([part.test_accuracy for part in self.parts])

    def _laws(self, accuracies: list[float]) -> PowerLaws:
        sizes, tested = [part.samples for part in self.parts], [part.tested for part in self.parts]
        return PowerLaws.of(sizes, accuracies, tested, self.chance)
