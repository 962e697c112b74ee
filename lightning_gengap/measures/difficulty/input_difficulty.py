"""How hard the training set is without any network: leave-one-out ridge on inputs and on random convolutions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, conv2d, normalize, relu

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import of_eigenvalues, require_time
from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.difficulty.compared_samples import compared, compared_inputs
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    accuracy_key,
    curve_keys,
    defined,
    learning_curve,
    leave_one_out_ridge,
)
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

FILTERS = 128
RANDOM_SIDE, PATCH_SIDE = 5, 6
PATCHES = 10_000
POOLED = 4
FLATTENING = 0.01  # added to the patches' variances before whitening, relative to their mean
_CHUNK, _MOST_NUMBERS = 64, 2**23  # images at once, and numbers of their responses, of which five copies are held
_PATCHES_WORDS = "ridge accuracy on convolutions of the whitened images with patches of their own"
KEYS = {
    "input_difficulty/ridge_accuracy": accuracy_key("ridge accuracy on the inputs"),
    **curve_keys("input_difficulty/convolution", "ridge accuracy on random convolutions of the images"),
    **curve_keys("input_difficulty/patch", _PATCHES_WORDS),
}


def input_difficulty(probe: Probe) -> Values:
    """Leave-one-out accuracy of ridge on the inputs, on random convolutions and on the images' own patches.

    Keys, higher for easier data: `input_difficulty/ridge_accuracy` (the flattened inputs as they are);
    for images also `input_difficulty/convolution_accuracy` (128 seeded Gaussian filters of 5 x 5) and
    `input_difficulty/patch_accuracy` (as filters, 128 whitened patches of 6 x 6 of the probe's own images, on the
    whitened images; after Coates and Ng 2012). ReLU of both signs and the mean over a 4 x 4 grid follow each filter.
    For the last two also `..._growth` and `..._extrapolated` to the train size, see `learning_curve`. The classifier is
    that of `difficulty/ridge_accuracy`. No weights of the network are used; scaling the inputs changes nothing.

    Images of more than 64 pixels a side are averaged down to 64 before all this. Of more than 4,096 samples, 4,096 are
    compared.

    Taken once per training, and only those keys that are wanted. Cost: no forward; two convolutions, three
    eigendecompositions of an (examples x examples) matrix, and four of one of half that size. Reference: none.

    Raises:
        Undefined: the inputs are no floats or differ in shape, or there are fewer than five samples per class that is
            present. The last two are absent where the inputs are not images of such a size, what is extrapolated where
            the train size is unknown, and what takes more memory than there is, or more than a minute.
    """
    if probe.inputs is None:
        raise Undefined(probe.why_no_inputs)
    samples = compared(probe)
    values: dict[str, Value] = {}
    if probe.wants("input_difficulty/ridge_accuracy"):
        inputs = compared_inputs(probe, samples.rows)
        assert inputs is not None
        flat = inputs.reshape(len(inputs), -1).cpu()
        values["input_difficulty/ridge_accuracy"] = defined(leave_one_out_ridge, flat, samples.targets)
    for name, rows in (("input_difficulty/convolution", convolution_rows), ("input_difficulty/patch", patch_rows)):
        if not any(probe.wants(key) for key in curve_keys(name, "")):
            continue
        try:
            found = probe.cached(rows)
        except Undefined as undefined:
            values[f"{name}_*"] = frameless(undefined)
            continue
        values |= learning_curve(name, leave_one_out_ridge, found, samples.targets, probe.train_samples)
    return values


def convolution_rows(probe: Probe) -> Tensor:
    """The `convolution_features` of the samples that are compared."""
    return convolution_features(_images_of(probe, RANDOM_SIDE), torch.Generator().manual_seed(probe.seed))


def patch_rows(probe: Probe) -> Tensor:
    """The `patch_features` of the samples that are compared."""
    return patch_features(_images_of(probe, PATCH_SIDE), torch.Generator().manual_seed(probe.seed))


def _images_of(probe: Probe, side: int) -> Tensor:
    """The images that are compared, standardised.

    Raises:
        Undefined: they are smaller, or no images; or filters of this side take too much memory or time.
    """
    inputs = compared_inputs(probe, compared(probe).rows)
    if inputs is None or inputs.ndim != 4 or min(inputs.shape[2:]) < side:
        raise Undefined(f"the inputs are not images of {side} x {side} or more")
    _require(inputs, side)
    return standardised(inputs)


def _require(images: Tensor, side: int) -> None:
    """Raise `Undefined` where filters of this side take more memory than there is, or more than a minute."""
    patch, places = images.shape[1] * side**2, images[0, 0].numel()
    whose = f"filters of {patch} numbers on {len(images)} images"
    features = 2 * FILTERS * POOLED**2
    require_room(3 * images.numel() * images.element_size() + 12 * len(images) * features + 16 * PATCHES * patch, whose)
    require_time(len(images) * places * FILTERS * patch + PATCHES * patch**2 + of_eigenvalues(patch), whose)


def standardised(images: Tensor) -> Tensor:
    """Images with mean zero and variance one in every channel that varies; float32, or float64 if they were."""
    images = precise(images)
    mean, deviation = channel_moments(images)
    return (images - mean) / deviation


def precise(images: Tensor) -> Tensor:
    """In float32, or in float64 if they were."""
    return images if images.dtype == torch.float64 else images.float()


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, the latter 1 where it does not vary; shapes (1, channels, 1, 1)."""
    deviation = images.std(dim=(0, 2, 3), correction=0, keepdim=True)
    return images.mean(dim=(0, 2, 3), keepdim=True), torch.where(deviation > 0, deviation, 1.0)


def convolution_features(images: Tensor, generator: torch.Generator) -> Tensor:
    """Responses to Gaussian filters; shape (examples, 2 x filters x 4 x 4), float64, on the CPU."""
    channels = images.shape[1]
    filters = torch.randn(FILTERS, channels, RANDOM_SIDE, RANDOM_SIDE, generator=generator, dtype=torch.float64)
    return responses(images, filters.to(images), torch.zeros(FILTERS).to(images))


def patch_features(images: Tensor, generator: torch.Generator) -> Tensor:
    """Responses of the whitened images to whitened patches of their own; shape as `convolution_features`."""
    return responses(images, *whitened_patches(images, FILTERS, generator))


def whitened_patches(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Filters from patches of the images, shape (count, channels, side, side), and the offset of each.

    W whitens the patches x. A filter is f = W (x - mean) / |W (x - mean)|, and its response at each place x' is
    f^T W (x' - mean): one convolution with W f and an offset.
    """
    channels = images.shape[1]
    patches = drawn_patches(images, generator)
    mean = patches.mean(dim=0)
    centred = patches - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.clamp(min=0)
    whitening = axes @ torch.diag(1 / (variances + FLATTENING * variances.mean()).sqrt()) @ axes.T
    filters = normalize(centred[:count] @ whitening, dim=1) @ whitening
    shaped = filters.reshape(-1, channels, PATCH_SIDE, PATCH_SIDE)
    return shaped.to(images), -(filters @ mean).to(images)


def drawn_patches(images: Tensor, generator: torch.Generator) -> Tensor:
    """Patches at random places of random images; shape (patches, channels x side x side), float64, on the CPU."""
    owner = torch.randint(len(images), (PATCHES,), generator=generator)
    reach = [length - PATCH_SIDE + 1 for length in images.shape[2:]]
    place = torch.rand(PATCHES, 2, generator=generator) * torch.tensor(reach)
    down, right = place.long().unbind(dim=1)
    within = torch.arange(PATCH_SIDE)
    rows, columns = (down[:, None] + within)[:, None, :, None], (right[:, None] + within)[:, None, None, :]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    places = (owner[:, None, None, None], channels, rows, columns)
    return images[tuple(place.to(images.device) for place in places)].flatten(1).cpu().double()


def responses(
    images: Tensor, filters: Tensor, offsets: Tensor, stride: int = 1, grid: int = POOLED, both: bool = True
) -> Tensor:
    """Convolution, ReLU of both signs or of one, mean over a grid; float64, on the CPU."""
    numbers = len(filters) * images[0, 0].numel()
    rows, start, pooling = torch.empty(0), 0, torch.empty(0)
    for chunk in images.split(max(min(_CHUNK, _MOST_NUMBERS // numbers), 1)):
        seen = conv2d(chunk, filters, offsets, stride)
        if not start:  # reserved at once: small results kept between large ones would scatter the memory for good
            pooling = pooling_onto(grid, seen)
            rows = torch.empty(len(images), 1 + both, len(filters), pooling.shape[1]).to(seen)
        seen = seen.flatten(2)
        rows[start : start + len(chunk), 0] = relu(seen) @ pooling
        if both:
            rows[start : start + len(chunk), 1] = seen.neg_().relu_() @ pooling
        start += len(chunk)
    return rows.flatten(1).cpu().double()


def pooling_onto(grid: int, maps: Tensor) -> Tensor:
    """The matrix that takes maps to their means over a grid, as adaptive pooling does; shape (places, regions).

    A product takes a quarter of the time.
    """
    eyes = (torch.eye(side, dtype=torch.float64)[:, None] for side in maps.shape[2:])
    height, width = (adaptive_avg_pool1d(eye, min(grid, eye.shape[2]))[:, 0] for eye in eyes)
    return torch.kron(height, width).to(maps.dtype).to(maps.device)
