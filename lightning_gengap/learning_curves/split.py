"""Which samples a part is trained on, which it is tested on, and where both are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lightning_gengap.errors import ConfigurationError, DataError
from lightning_gengap.learning_curves.arguments import FEWEST
from lightning_gengap.learning_curves.readings import Readable
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.overlap import equal_samples, shared_indices
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.samples.source import Source
from lightning_gengap.stratified_split import Indices
from lightning_gengap.undisturbed import random_streams_kept

_COMPARED = 1024  # samples of each kind whose content is compared


@dataclass(frozen=True)
class Split:
    """The data: a part of any size is the beginning of `order`, and the rest is what it is tested on.

    Attributes:
        trained: the data set of training.
        order: its indices.
        measured: where its samples are read to be measured.
        test: what all parts are tested on; None for what each leaves.
    """

    trained: Any
    order: Indices
    measured: Source
    test: Readable | None

    @classmethod
    def of(
        cls, dataset: Any, order: Indices, options: Mapping[str, Any], probe_data: Any, test: Any, seed: int
    ) -> Split:
        """The split of a data set that a loader with these options reads.

        Raises:
            ConfigurationError: `probe_data` are not the same samples.
            DataError: `test` has fewer than ten.
        """
        if probe_data is not None and len(probe_data) != len(order):
            raise ConfigurationError(
                "learning_curve(probe_data=)",
                got=f"{len(probe_data)} samples",
                expected=f"the {len(order)} of the data set, in its order",
                remedy="Pass the same data set without augmentation.",
            )
        measured = _source(dataset if probe_data is None else probe_data, options)
        return cls(dataset, order, measured, None if test is None else _tested(test, options, seed))

    def part(self, size: int) -> tuple[Readable, Readable]:
        """What a part of this size is trained and tested on."""
        held = Readable(self.measured, self.order[size:]) if self.test is None else self.test
        return Readable(self.measured, self.order[:size]), held

    def check_test(self, reader: SampleReader) -> None:
        """Refuse a test set that is trained on, by the index of its samples or by their content.

        Raises:
            DataError: it has samples of the data set.
        """
        if self.test is None:
            return
        known = shared_indices(self.test.source.dataset, self.trained)
        if not known:
            known = equal_samples(_read(self.test, reader), _read(Readable(self.measured, self.order), reader))
        if known:
            raise DataError(
                "learning_curve(test=)",
                got=f"{known} samples that are trained on",
                expected="samples that are never trained on",
                remedy="Pass others, or None to test on what each part leaves.",
            )


def _read(readable: Readable, reader: SampleReader) -> list[ProbeBatch]:
    with random_streams_kept():
        return [reader.batch(batch) for batch in readable.source.batches(readable.chunks(_COMPARED))]


def _source(dataset: Any, options: Mapping[str, Any]) -> Source:
    """Where samples are read to be measured, as a training loader reads them, but not mixed."""
    return replace(Source.of(DataLoader(dataset, **options), ()), plain=True)


def _tested(test: Any, options: Mapping[str, Any], seed: int) -> Readable:
    """All samples of a test set, in an order of which the beginning stands for all."""
    if len(test) < FEWEST:
        raise DataError(
            "learning_curve(test=)",
            got=f"{len(test)} samples",
            expected=f"{FEWEST} samples or more",
            remedy="Pass more, or None to test on what each part leaves.",
        )
    return Readable(_source(test, options), np.random.default_rng(seed).permutation(len(test)))
