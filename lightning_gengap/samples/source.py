"""Where the samples at some indices are read: through a private copy, or in a worker of our own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_gengap.errors import GapError, out_of_memory
from lightning_gengap.samples.dataset_copy import private_copy
from lightning_gengap.samples.mixing import Collate, plain_collate

COLLATE_MIXES = (
    "the collate_fn of the training loader mixes samples, so probe_data are stacked by torch's default_collate; pass "
    "probe_data=DataLoader(<data set>, collate_fn=...) to collate them otherwise"
)


@dataclass(frozen=True)
class Source:
    """Where lists of indices are read.

    Attributes:
        collate: from what is fetched to a batch.
        whole: whether the data set is handed the whole list, as a loader does that does not batch.
        loader: whose workers can be imitated; None for none.
        keep: objects that are not copied.
        plain: whether torch's own collate function is taken where this one mixes samples.
        notes: what the user should know about the reading; filled by it.
    """

    dataset: Any
    collate: Collate
    whole: bool = False
    loader: DataLoader[Any] | None = None
    keep: tuple[Any, ...] = ()
    plain: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, loader: DataLoader[Any], keep: tuple[Any, ...]) -> Source:
        """What the loader reads, as it reads it."""
        return cls(loader.dataset, loader.collate_fn, loader.batch_sampler is None, loader, keep)

    def batches(self, requests: Sequence[list[int]]) -> Generator[Any, None, None]:
        """The batch of each list of indices, read through private copies.

        Where reading fails in this process, and the loader has workers, it is read in one worker of our own: its
        `worker_init_fn` may be what opens the data.
        """
        first, *others = requests
        with private_copy((self.dataset, self.collate), self.keep) as ((dataset, collate), shared):
            try:
                samples = self._fetch(dataset, first)
                if self.plain:
                    collate = self._plain(collate, samples)
                batch = collate(samples)
            except Exception as error:
                workers = self.loader is not None and self.loader.num_workers > 0
                if isinstance(error, GapError) or out_of_memory(error) or not workers:
                    raise
                failure = error
            else:
                self._tell(shared)
                yield batch
                for request in others:
                    yield collate(self._fetch(dataset, request))
                return
        with private_copy((self.dataset, self.collate), self.keep) as ((dataset, collate), shared):
            batches = iter(self._worker(dataset, _as_fetched if self.plain else collate, requests))
            try:
                batch = next(batches)
            except Exception as error:  # a worker cannot read them either
                raise failure from error
            self._tell(shared)
            if self.plain:
                collate = self._plain(collate, batch)
            for read in chain([batch], batches):
                yield collate(read) if self.plain else read

    def _fetch(self, dataset: Any, indices: list[int]) -> Any:
        """The samples at these indices, as torch fetches them."""
        if self.whole:
            return dataset[indices]
        fetch = getattr(dataset, "__getitems__", None)
        return [dataset[i] for i in indices] if fetch is None else fetch(indices)

    def _worker(self, dataset: Any, collate: Collate, requests: Sequence[list[int]]) -> DataLoader[Any]:
        """Reads the requests in one worker that is started as the loader's are. It draws no global random number."""
        assert self.loader is not None
        how: dict[str, Any] = {"sampler": requests, "batch_size": None} if self.whole else {"batch_sampler": requests}
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=1,
            worker_init_fn=self.loader.worker_init_fn,
            multiprocessing_context=self.loader.multiprocessing_context,
            timeout=self.loader.timeout,
            prefetch_factor=1,
            generator=torch.Generator(),
            **how,
        )

    def _plain(self, collate: Collate, samples: Any) -> Collate:
        chosen = plain_collate(collate, samples)
        if chosen is not collate:
            self.notes.append(COLLATE_MIXES)
        return chosen

    def _tell(self, shared: Sequence[str]) -> None:
        if shared:
            self.notes.append(
                f"samples are read through a copy of the data set, but its {', '.join(shared)} cannot be copied: what "
                "reading changes in there stays changed"
            )


def _as_fetched(samples: Any) -> Any:
    return samples
