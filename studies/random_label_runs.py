"""The networks of `random_labels`: their data, with true or random labels, and their training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torch.utils.data import TensorDataset

from lightning_gengap.network.probe import copy_state
from lightning_gengap.randomized_data import corrupted_labels
from lightning_gengap.zoo.train.convolutional_networks import vgg
from lightning_gengap.zoo.train.datasets import load
from lightning_gengap.zoo.train.multilayer_perceptrons import mlp
from lightning_gengap.zoo.train.shape import Shape

FITTED, MOST_EPOCHS, CLASSES = 0.99, 400, 10
NARROW = 2000  # training samples that the CNN fits with its 64 hidden units
HIDDEN = 512  # hidden units of the CNN for more samples


@dataclass(frozen=True)
class Run:
    """What determines a training. `level` is the share of labels that are drawn at random."""

    network: str
    size: int
    seed: int
    level: float

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.network}_{self.size}_{self.seed}_{self.level:g}"


@dataclass(frozen=True)
class Split:
    """Standardised images and their labels."""

    images: Tensor
    labels: Tensor


def draw(split: str, count: int, seed: int, directory: Path | None) -> Split:
    """`count` images of one split, in [0, 255], with their true labels."""
    pixels, labels = load("cifar10" if directory else "digits", split, directory)
    chosen = np.random.default_rng([seed, count]).permutation(len(labels))[:count]
    images = torch.from_numpy(np.ascontiguousarray(pixels[chosen])).permute(0, 3, 1, 2).float()
    if images.shape[-1] > 16:
        images = adaptive_avg_pool2d(images, 16)
    return Split(images, torch.from_numpy(labels[chosen]))


def prepare(run: Run, directory: Path | None) -> tuple[Split, Split]:
    """The training samples with the run's labels, and the test samples with their true ones."""
    train, test = draw("train", run.size, run.seed, directory), draw("test", 2000, 0, directory)
    mean = train.images.mean(dim=(0, 2, 3), keepdim=True)
    deviation = train.images.std(dim=(0, 2, 3), keepdim=True)
    given = corrupted_labels(TensorDataset(train.images, train.labels), CLASSES, run.level, run.seed)
    labels = torch.tensor([given[index][1] for index in range(len(given))])
    return Split((train.images - mean) / deviation, labels), Split((test.images - mean) / deviation, test.labels)


def build(run: Run, images: Tensor) -> nn.Module:
    """The run's network before the first step."""
    torch.manual_seed(run.seed)
    channels, side = images.shape[1:3]
    if run.network == "cnn":
        model = vgg(Shape(channels, side, CLASSES, width=16, depth=1))
        if run.size > NARROW:
            *rest, first, _, _, _ = model
            return nn.Sequential(*rest, nn.Linear(first.in_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        return model
    return mlp(Shape(channels, side, CLASSES, width=16, depth=1, norm=False))


def accuracy(model: nn.Module, data: Split) -> float:
    """In eval mode, which the model is left in."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in data.images.split(500)])
    return float((logits.argmax(1) == data.labels).double().mean())


def fit(model: nn.Module, train: Split, seed: int) -> dict[str, float]:
    """Train until the bar is reached or the epochs are spent; the epochs, and the mean loss of all steps."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    epochs, total, steps = 0, 0.0, 0
    while epochs < MOST_EPOCHS and accuracy(model, train) < FITTED:
        model.train()
        for rows in torch.randperm(len(train.labels), generator=generator).split(50):
            optimizer.zero_grad()
            loss = cross_entropy(model(train.images[rows]), train.labels[rows])
            loss.backward()
            optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
        epochs += 1
    return {"epochs": float(epochs), "speed/train_loss_mean": total / max(steps, 1)}


def train_or_load(run: Run, train: Split, folder: Path) -> tuple[nn.Module, dict[str, Tensor], dict[str, float]]:
    """The trained network, its initial state, and what `fit` returned; from the run's file if there is one."""
    model = build(run, train.images)
    initial, path = copy_state(model), folder / f"{run.name}.npz"
    if not path.exists():
        facts = fit(model, train, run.seed)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **facts, **{f"state/{name}": value for name, value in copy_state(model).items()})
        partial.replace(path)
    with np.load(path) as stored:
        state = {name.removeprefix("state/"): stored[name] for name in stored.files if name.startswith("state/")}
        facts = {name: float(stored[name]) for name in stored.files if not name.startswith("state/")}
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return model, initial, facts
