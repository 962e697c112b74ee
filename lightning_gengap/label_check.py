"""Which training samples look mislabelled."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_gengap.measures.agreement.mislabelled import Mislabelled
from lightning_gengap.samples.batches import Forward, Target
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.standalone import check_seed, check_size, measurer_for, mislabelled_of, require_some

MOST = 4096  # samples that are looked at


def mislabelled(
    model: nn.Module,
    data: Any,
    *,
    forward: Forward | None = None,
    target: Target | None = None,
    seed: int = 0,
    samples: int | None = MOST,
) -> list[Mislabelled]:
    """The training samples whose label a classifier contradicts that has not seen it, most suspicious first.

    Ridge on patches of images, trees or ridge on vectors, and naive Bayes on the tokens of texts are each asked about
    every sample as if it had not been there; the one that is right most often decides. The weights of the model do not
    matter: it only tells how the data are read. Neither model nor data nor random streams are changed.

    Args:
        model: any classifier that returns logits of shape (batch, classes).
        data: a dataset, a DataLoader or an iterable of batches of training samples.
        forward: maps (model, batch) to logits, for unusual batches.
        target: maps a batch to class indices, for unusual batches.
        seed: draws the samples, the patches and the trees.
        samples: how many of the samples are looked at, drawn by the seed; of more than 4,096, or with None, 4,096 are.
            The classifiers learn from the others too.

    Returns:
        Tuples (sample, label, suggested, score): the index in the data set, or the place in the batches; the given
        class; the suggested one; and how much more probable that is, in (0, 1]. How many of them are mislabelled, and
        how many mislabelled ones are among them, is in docs/mislabelled.md.

    Raises:
        GapError: data, targets or outputs that cannot be used. The message says what to do.
        MeasureError: none of the classifiers can be fitted to these data.

    Example:
        >>> import torch
        >>> from lightning_gengap import mislabelled
        >>> labels = torch.arange(100) % 2
        >>> rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 5 * labels[:, None]
        >>> labels[11] = 0
        >>> [(each.sample, each.label, each.suggested) for each in mislabelled(torch.nn.Linear(3, 2), [(rows, labels)])]
        [(11, 0, 1)]
    """
    check_size("samples", samples)
    check_seed(seed)
    most = MOST if samples is None else min(samples, MOST)
    measurer = measurer_for(model, data, SampleReader(most, seed, target, forward))
    require_some(measurer.measure(model, ["reference"]), ["reference"])
    return mislabelled_of(measurer)
