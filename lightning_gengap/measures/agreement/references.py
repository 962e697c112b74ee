"""Classifiers that predict the class of a sample without having seen its label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import require_time
from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement import forest, landmarks, patches
from lightning_gengap.measures.agreement.fitting import Judged, number_of_others, others
from lightning_gengap.measures.agreement.sliced_ridge import SlicedRidge
from lightning_gengap.measures.agreement.tokens import naive_bayes, place_of_tokens, tokens_at
from lightning_gengap.measures.difficulty.compared_samples import compared_inputs, shrunk
from lightning_gengap.measures.difficulty.difficulty import initial_features
from lightning_gengap.measures.difficulty.input_difficulty import PATCH_SIDE, PATCHES, precise
from lightning_gengap.measures.difficulty.known_task import knows
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    RIDGES,
    left_out_scores,
    require_comparison,
    standardised_gram,
)
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import FEWEST

TEMPERATURES = [2.0**power for power in range(-8, 8)]
_FLOOR = 1e-12
_SLICE = 1024  # vectors that are worked on at once


@dataclass(frozen=True)
class Said:
    """What a reference says of the judged samples.

    Attributes:
        shares: how probable each class is for each sample, shape (judged, classes).
        fitted: the number of samples that it was fitted on.
        flipped: the predicted class of each sample's mirror image, shape (judged,); None where there is none.
    """

    shares: Tensor
    fitted: int
    flipped: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """A reference classifier.

    Attributes:
        ask: from a probe and the judged samples to what it says.
        words: what it is, for the description of keys.
        called: what it is, in a sentence for the user.
    """

    ask: Callable[[Probe, Judged], Said]
    words: str
    called: str


def on_patches(probe: Probe, judged: Judged) -> Said:
    """Leave-one-out ridge on how whitened patches answer in the images; in sums over slices of all samples."""
    images = compared_inputs(probe, judged.rows)
    if images is None or images.ndim != 4 or min(images.shape[2:]) < PATCH_SIDE:
        raise OtherKind(f"the inputs are not images of {PATCH_SIDE} x {PATCH_SIDE} or more")
    if not bool(images.isfinite().all()):
        raise Undefined("the inputs are not all finite")
    shape, width, classes = images.shape[1:], patches.features_of(images.shape), len(judged.classes)
    cost = patches.multiplications(shape) + width**2
    more = number_of_others(probe, judged, shape.numel(), cost)
    _require(len(images), shape, width, cost * (len(images) + more))
    features = patches.PatchFeatures.of(images, probe.seed)

    def read(batch: ProbeBatch) -> Tensor | None:
        inputs = _inputs_like(images, batch)
        return None if inputs is None else features(inputs)

    rows, labels = features(images), signs(judged.ranks, classes)
    rest = ((row, signs(ranks, classes)) for row, ranks in others(probe, judged, read, more))
    ridge = SlicedRidge.of(rows, labels, rest, few=len(rows) + more < width)
    rows = ridge.centred(rows)
    best, solved, highest = rows, None, -1
    for strength in RIDGES:
        candidate = ridge.solved(strength)
        scores = candidate.left_out(rows, labels)
        right = int((scores.argmax(1) == judged.ranks).sum())
        if right > highest:
            best, solved, highest = scores, candidate, right
    assert solved is not None
    mirrored = ridge.centred(features(images.flip(3)))
    flipped = solved.left_out(rows, labels, mirrored).argmax(1)
    return Said(calibrated(best, judged.ranks), ridge.count, flipped)


def on_features(probe: Probe, judged: Judged) -> Said:
    """Leave-one-out ridge on the features of the network at its initial weights, of the judged samples alone."""
    if probe.initial_state is None:
        raise Undefined("there are no initial weights")
    if not probe.layout.taps:
        raise Undefined("there are no hidden layers")
    _require_unknown_labels(probe)
    found = probe.cached(initial_features)
    rows = found if len(found) == len(judged.rows) else found[judged.rows]
    require_comparison(len(rows), rows.shape[1])
    return Said(
        calibrated(best_of(left_out_scores(standardised_gram(rows), judged.ranks), judged), judged.ranks), len(rows)
    )


def _require_unknown_labels(probe: Probe) -> None:
    """Raise `Undefined` where the initial weights know the labels: their features show those of left-out samples."""
    chance = float(torch.bincount(probe.targets).max() / len(probe.targets))
    right = samples = 0
    with torch.no_grad():
        for batch, logits in probe.forwards(probe.initial_state):
            right += int((logits.argmax(1) == batch.targets).sum())
            samples += len(batch.targets)
            if samples >= FEWEST:
                break
    if knows(right / samples, chance, samples):
        raise Undefined("the initial weights know the labels already")


def on_inputs(probe: Probe, judged: Judged) -> Said:
    """Out-of-bag shares of extremely randomised trees on the inputs."""
    own = compared_inputs(probe, judged.rows)
    if own is None:
        raise OtherKind(probe.why_no_inputs)
    width = own[0].numel()
    cost = forest.cost_of(width, len(judged.classes), len(probe.targets) + len(probe.others or ()))
    require_time(cost * len(own), f"trees on {len(own)} samples of {width} numbers")
    vectors, ranks = _gathered(probe, judged, own, number_of_others(probe, judged, width, cost))
    classes = len(judged.classes)
    ranks = torch.where(ranks < 0, classes, ranks)
    return Said(forest.out_of_bag_shares(vectors, ranks, probe.seed, len(own))[:, :classes], len(vectors))


def on_landmarks(probe: Probe, judged: Judged) -> Said:
    """Leave-one-out ridge on how near a vector is to each of 512 others, at the best of three distances."""
    own = compared_inputs(probe, judged.rows)
    if own is None or own.ndim != 2:
        raise OtherKind("the inputs are not vectors")
    width, bells, classes = own.shape[1], min(landmarks.LANDMARKS, len(own)), len(judged.classes)
    cost = len(landmarks.WIDTHS) * bells * (width + bells)
    require_room(8 * len(own) * (4 * bells + 2 * width), f"the distances of {len(own)} samples")
    vectors, ranks = _gathered(probe, judged, own, number_of_others(probe, judged, width, cost))
    labels, own_labels = signs(ranks, classes), signs(judged.ranks, classes)
    if not bool(vectors.isfinite().all()):
        raise Undefined("the inputs are not all finite")
    found = []
    for bell in landmarks.WIDTHS:
        features = landmarks.LandmarkFeatures.of(vectors[: len(own)], bell)
        rows = features(vectors[: len(own)])
        parts = zip(vectors[len(own) :].split(_SLICE), labels[len(own) :].split(_SLICE), strict=True)
        ridge = SlicedRidge.of(rows, own_labels, ((features(part), of_part) for part, of_part in parts if len(part)))
        rows = ridge.centred(rows)
        found += [ridge.solved(strength).left_out(rows, own_labels) for strength in landmarks.STRENGTHS]
    return Said(calibrated(best_of(found, judged), judged.ranks), len(vectors))


def _gathered(probe: Probe, judged: Judged, own: Tensor, more: int) -> tuple[Tensor, Tensor]:
    """The inputs of the judged samples and of so many others, flattened, float32, on the CPU; and their ranks.

    They are in units of their own, see `_in_units`.
    """
    count, width, filled = len(own) + more, own[0].numel(), len(own)
    require_room(4 * 2 * count * width, f"{count} samples of {width} numbers")
    in_units = _in_units(own)

    def read(batch: ProbeBatch) -> Tensor | None:
        inputs = _inputs_like(own, batch)
        return None if inputs is None else in_units(inputs)

    inputs, ranks = torch.empty(count, width), torch.full((count,), -1)
    inputs[:filled], ranks[:filled] = in_units(own), judged.ranks
    for rows, of_rows in others(probe, judged, read, more):
        inputs[filled : filled + len(rows)], ranks[filled : filled + len(rows)] = rows, of_rows
        filled += len(rows)
    return inputs[:filled], ranks[:filled]


def _in_units(own: Tensor) -> Callable[[Tensor], Tensor]:
    """What flattens inputs to float32 numbers on the CPU that trees can be grown on, by the range that these have.

    Trees take numbers for equal that differ by less than 1e-7. Where all of an input differ by less than one, its unit
    is a power of two, which rounds nothing. Float64 is centred, because what varies in it may be lost in float32.
    """
    rows = precise(own).flatten(1)
    lowest, extent = rows.amin(0), rows.amax(0) - rows.amin(0)
    unit = 2.0 ** torch.where((extent > 0) & (extent < 1), extent, 1.0).log2().floor().clamp(min=-120)
    zero = lowest + extent / 2 if rows.dtype == torch.float64 else torch.zeros_like(lowest)
    return lambda inputs: ((precise(inputs).flatten(1) - zero) / unit).float().cpu()


def on_tokens(probe: Probe, judged: Judged) -> Said:
    """Leave-one-out naive Bayes on which tokens a text has."""
    place = probe.cached(place_of_tokens)
    found = [tokens_at(batch, place) for batch in probe.batches]
    held = [tokens for tokens in found if tokens is not None]
    if len(held) < len(found):
        raise Undefined("batches differ in kind")
    longest = max(tokens.shape[1] for tokens in held)
    tokens = torch.cat([padded(part, longest) for part in held])[judged.rows]
    more = number_of_others(probe, judged, longest, longest * len(judged.classes))
    fitted = len(tokens)

    def counted() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal fitted
        for rows, ranks in others(probe, judged, lambda batch: tokens_at(batch, place), more):
            fitted += len(rows)
            yield rows, ranks

    scores = best_of(naive_bayes(tokens, judged.ranks, len(judged.classes), counted()), judged)
    return Said(calibrated(scores, judged.ranks), fitted)


REFERENCES: dict[str, Reference] = {
    "patch": Reference(on_patches, "leave-one-out ridge on the images' own patches", "ridge on patches of the images"),
    "forest": Reference(on_inputs, "out-of-bag extremely randomised trees on the inputs", "a random forest"),
    "landmarks": Reference(
        on_landmarks, "leave-one-out ridge on nearness to other samples", "ridge on nearness to other samples"
    ),
    "tokens": Reference(on_tokens, "leave-one-out naive Bayes on the tokens", "naive Bayes on the tokens"),
    "features": Reference(
        on_features,
        "leave-one-out ridge on the untrained network's features",
        "ridge on the untrained network's features",
    ),
}


def best_of(found: list[Tensor], judged: Judged) -> Tensor:
    """The scores of the highest accuracy."""
    return max(found, key=lambda scores: int((scores.argmax(1) == judged.ranks).sum()))


def signs(ranks: Tensor, classes: int) -> Tensor:
    """+1 for the own class and -1 for the others, all -1 for a rank of -1; float64, shape (examples, classes)."""
    known = one_hot(ranks.clamp(min=0), classes).double() * (ranks >= 0).double()[:, None]
    return 2 * known - 1


def calibrated(scores: Tensor, ranks: Tensor) -> Tensor:
    """Shares from scores: their softmax at the temperature at which the given labels are most probable."""
    candidates = ((scores * factor).softmax(1) for factor in TEMPERATURES)
    own = ranks[:, None]
    return max(candidates, key=lambda shares: float(shares.gather(1, own).clamp(min=_FLOOR).log().sum()))


def padded(tokens: Tensor, length: int) -> Tensor:
    """Tokens of this length; the first one of each text is repeated, which says nothing new of the text."""
    missing = length - tokens.shape[1]
    return torch.cat([tokens, tokens[:, :1].expand(-1, missing)], dim=1) if missing else tokens


def _inputs_like(own: Tensor, batch: ProbeBatch) -> Tensor | None:
    """The inputs of a batch, images averaged down as the judged ones are; None where they differ in shape."""
    inputs = None if batch.inputs is None else shrunk(batch.inputs.detach())
    return None if inputs is None or inputs.shape[1:] != own.shape[1:] else inputs


def _require(count: int, shape: torch.Size, width: int, cost: float) -> None:
    """Raise `Undefined` where ridge on patches takes more memory than there is, or more than a minute."""
    patch = shape[0] * PATCH_SIDE**2
    whose = f"patches of {patch} numbers on {count} images"
    held = 4 * count * shape.numel() + 16 * PATCHES * patch + 8 * (4 * width**2 + 5 * count * width)
    require_room(held, whose)
    require_time(cost + PATCHES * patch**2 + len(RIDGES) * width**2 * (width / 3 + count), whose)
