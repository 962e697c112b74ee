"""Whether samples were trained on: by their indices where data sets tell, and by their content."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.nested import flat_tensors
from lightning_gengap.samples.trainable_indices import origins, trainable_indices

_SIGNIFICANT = 0.01  # the chance to find so many equal samples among new ones of the same kind


def shared_indices(one: Any, other: Any, of_other: Sequence[int] | None = None) -> int:
    """How many samples of `one` are samples of `other`, or of the indices `of_other` there.

    Both are data sets or loaders. They are followed through `Subset` and `ConcatDataset`. As far as is known, views of
    different data sets share nothing.
    """
    known: dict[int, int] = {}
    return len(_places(one, None, known) & _places(other, of_other, known))


def _places(data: Any, indices: Sequence[int] | None, known: dict[int, int]) -> set[tuple[int, int]]:
    """The data set of each sample in the end, as a number in `known`, and its index there; empty without indices."""
    if isinstance(data, DataLoader):
        indices = trainable_indices(data) if indices is None else indices
        data = data.dataset
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        return set()
    owners, within = origins(data, torch.as_tensor(range(len(data)) if indices is None else indices).long(), known)
    return set(zip(owners.tolist(), within.tolist(), strict=True))


def equal_samples(held_out: Sequence[ProbeBatch], trained: Sequence[ProbeBatch]) -> int:
    """How many held-out samples equal one of those trained on; 0 where new samples would be equal as often.

    Data sets have duplicates of their own: the share of the trained samples that equal another of them. The held-out
    ones are told from new samples by Fisher's exact test.
    """
    return equal_digests(digests(held_out), digests(trained))


def equal_digests(held_out: Sequence[bytes], trained: Sequence[bytes]) -> int:
    """The same of the `digests` of both."""
    known = Counter(trained)
    equal = sum(digest in known for digest in held_out)
    doubled = sum(count for count in known.values() if count > 1)
    if equal == 0 or _chance(equal, len(held_out), doubled, len(trained)) > _SIGNIFICANT:
        return 0
    return equal


def _chance(equal: int, held_out: int, doubled: int, trained: int) -> float:
    """The chance that so many held-out samples or more are equal to another, if they are as likely to as trained ones.

    That is the upper tail of the hypergeometric distribution.
    """
    marked, total = equal + doubled, held_out + trained
    return math.fsum(
        math.exp(
            _log_choices(marked, count) + _log_choices(total - marked, held_out - count) - _log_choices(total, held_out)
        )
        for count in range(equal, min(marked, held_out) + 1)
        if held_out - count <= total - marked
    )


def _log_choices(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def digest_of(batches: Sequence[ProbeBatch]) -> str:
    """A hash of samples and labels, in order; empty where the samples cannot be told apart."""
    found = digests(batches)
    targets = torch.cat([batch.targets.cpu() for batch in batches])
    if len(found) != len(targets):
        return ""
    return hashlib.blake2b(b"".join(found) + targets.numpy().tobytes(), digest_size=16).hexdigest()


def digests(batches: Iterable[ProbeBatch]) -> list[bytes]:
    """A hash of each sample, without its label."""
    found: list[bytes] = []
    for batch in batches:
        count = len(batch.targets)
        parts = [part for part in flat_tensors(batch.content) if part.layout == torch.strided and not part.is_nested]
        inputs = [part.detach().cpu() for part in parts if part.ndim > 1 and len(part) == count]
        rows = [part.contiguous().reshape(count, -1).view(torch.uint8).numpy() for part in inputs if part.numel()]
        for place in range(count if rows else 0):
            digest = hashlib.blake2b(digest_size=16)
            for row in rows:
                digest.update(row[place].tobytes())
            found.append(digest.digest())
    return found
