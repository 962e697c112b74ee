"""Models and data that no measure was made for: finite values, an absence with a reason, or an error with a name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap import measure
from lightning_gengap.errors import DataError, GapError, LogitsError
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.monitor.readout import Status
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.lightning_models import watched
from tests.tiny_predictors import tiny_monitor

COUNT = 24
LIKE_SOFT_RANK = ("full_soft_rank", "tic")  # expensive, and by the same code: on few kinds
every_measure = pytest.mark.parametrize("name", MEASURES)


def small() -> nn.Sequential:
    return networks.mlp((8, 8, 8))


def frozen() -> nn.Module:
    return small().requires_grad_(False)


def partly_frozen() -> nn.Module:
    model = small()
    model[1].requires_grad_(False)
    model[-1].requires_grad_(False)
    return model


class Shared(nn.Module):
    """One weight in two layers, and a layer with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(192, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 4)
        self.alias = self.head

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.first(torch.relu(self.embed(images.flatten(1)))))
        return self.alias(torch.relu(self.second(hidden)))


class Idle(nn.Module):
    """Parameters that no gradient reaches, in layers and outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.teacher, self.scale = small(), nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class Complex(nn.Module):
    """A learned filter in Fourier space."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.body = nn.Parameter(torch.randn(8, 5, dtype=torch.complex64)), small()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter, s=(8, 8)))


class Integer(nn.Module):
    """A lookup table of integers among the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.body = nn.Parameter(torch.tensor([1, 2, 3]), requires_grad=False), small()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images + 0.1 * self.shift[:, None, None])


class Buffers(nn.Module):
    """Random features: no parameter at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(192, 4))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1)) @ self.weight


class Huge(nn.Module):
    """Logits near the end of float32: infinite for slightly other inputs or weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, images: Tensor) -> Tensor:
        return 1e38 * self.body(images)


class NoGrad(nn.Module):
    """Computed without gradients, always or only outside of training."""

    def __init__(self, in_training: bool) -> None:
        super().__init__()
        self.body, self.in_training = small(), in_training

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.in_training and self.training):
            return self.body(images)


class Inference(nn.Module):
    """Computed in inference mode, whose tensors count no changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.body(images)


class Detached(nn.Module):
    """Logits that no gradient leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).detach()


class OutOfMemory(nn.Module):
    """Fails from some forward on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.body, self.left = small(), after

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.body(images)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "frozen": frozen,
    "partly frozen": partly_frozen,
    "shared": Shared,
    "idle": Idle,
    "complex": Complex,
    "integer": Integer,
    "buffers": Buffers,
    "huge": Huge,
    "no_grad": lambda: NoGrad(in_training=False),
    "no_grad outside of training": lambda: NoGrad(in_training=True),
    "detached": Detached,
    "inference mode": Inference,
    # Watching a model takes two forwards.
    "out of memory at once": lambda: OutOfMemory(2),
    "out of memory later": lambda: OutOfMemory(3),
}


def fingerprint(model: nn.Module) -> list[Any]:
    tensors = [
        (name, id(tensor), tensor.requires_grad, tensor.tolist())
        for part in model.modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None
    ]
    return [tensors, [parameter.grad for parameter in model.parameters()], [part.training for part in model.modules()]]


def taken(name: str, model: nn.Module, images: Tensor, targets: Tensor, **more: Any) -> tuple[dict[str, float], str]:
    """The measure's own values, and what was said: notes, or the error."""
    initial = {key: value + 1 for key, value in copy_state(model).items()}
    before = fingerprint(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            values = measure(model, [(images, targets)], [name], initial, **more)
            said = [str(warning.message) for warning in caught]
        except GapError as error:
            values, said = {}, [str(error)]
    assert fingerprint(model) == before
    assert all(math.isfinite(value) for value in values.values())
    assert len(said) == len(set(said))
    own = {key: value for key, value in values.items() if MEASURED[key].measure == name}
    assert own or said, "what is absent has a reason"
    return own, "\n".join(said)


def labelled(model: nn.Module) -> tuple[Tensor, Tensor]:
    return networks.images(COUNT), torch.arange(COUNT) % networks.CLASSES


def prefixes(name: str) -> set[str]:
    return {key.split("/")[0] for key, entry in MEASURED.items() if entry.measure == name} | {name}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in MEASURES
        for kind in MODELS
        if name not in LIKE_SOFT_RANK or kind in ("frozen", "complex")
    ],
)
def test_a_model_of_an_odd_kind_has_values_or_a_reason_and_is_unchanged(name: str, kind: str) -> None:
    model = networks.made(MODELS[kind])
    values, said = taken(name, model, *labelled(model))
    for line in filter(None, said.split("\n")):
        # The margins are always taken, and say themselves what they lack.
        assert any(prefix in line for prefix in prefixes(name) | {"margin/"}), f"which measure? {line}"
    if kind == "out of memory at once" and not values:
        assert "out of memory" in said


FROM_GRADIENTS = (
    "gradient_noise",
    "sharpness",
    "pac_bayes",
    "adaptive_sharpness",
    "worst_case",
    "soft_rank",
    "full_soft_rank",
    "tic",
    "diagonal_curvature",
    "kronecker_curvature",
    "hessian",
    "network_leave_one_out",
    "perturbed_margin",
    "kernel_difficulty",
)


@pytest.mark.parametrize("kind", ["no_grad", "no_grad outside of training", "detached", "inference mode"])
@pytest.mark.parametrize("name", FROM_GRADIENTS)
def test_without_gradients_what_takes_them_is_absent_not_zero(name: str, kind: str) -> None:
    model = networks.made(MODELS[kind])
    values, said = taken(name, model, *labelled(model))
    assert values == {}
    causes = (
        "no gradient of the logits",
        "depend on no parameter",
        "does not require grad",
        "gradients",
        "inference tensor",
    )
    assert any(cause in said for cause in causes), said


@pytest.mark.parametrize("name", ["margin", "leave_one_out", "fit"])
def test_without_gradients_what_takes_none_is_as_with_them(name: str) -> None:
    model = networks.made(MODELS["detached"])
    (values, _), (plain, _) = (taken(name, part, *labelled(model)) for part in (model, model.body))
    assert values.items() <= plain.items()
    assert values, "the output margins, the last layer and the logits need no gradient"


@every_measure
def test_fewer_samples_than_classes(name: str) -> None:
    taken(name, networks.made(small), networks.images(3), torch.tensor([0, 1, 3]))


@every_measure
def test_no_weight_decay(name: str) -> None:
    model = networks.made(small)
    values, _ = taken(name, model, *labelled(model), weight_decay=0.0)
    assert values.get("curvature/lambda_assumed", 1.0) == 1.0


@every_measure
def test_a_single_class_and_infinite_logits_are_refused(name: str) -> None:
    model = networks.made(small)
    images, targets = labelled(model)
    with pytest.raises(DataError, match="all of class 0; expected two classes or more"):
        measure(model, [(images, 0 * targets)], [name])
    with torch.no_grad():
        model[-1].bias.fill_(torch.inf)
    with pytest.raises(LogitsError, match="with NaN or infinity; expected finite logits"):
        measure(model, [(images, targets)], [name])


class OddTask(LightningModule):
    """Frozen, shared, doubly named, idle and integer parameters in one network, trained without weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.head = nn.Linear(36, 8), nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 4)
        self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.alias, self.teacher = self.head, nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.tensor(2), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.frozen(torch.relu(self.first(images.flatten(1) + 0.1 * self.shift))))
        return self.alias(torch.relu(self.third(torch.relu(self.second(hidden)))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05, momentum=0.9)


class ComplexTask(OddTask):
    """A learned filter in Fourier space in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter, s=(6, 6)))


class CrowdedTask(OddTask):
    """Memory for two forwards of a measurement, not for more."""

    left = 1000

    def forward(self, images: Tensor) -> Tensor:
        self.left = 2 if self.training else self.left - 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


def after_training(kind: type[OddTask], *callbacks: Any) -> tuple[dict[str, Tensor], list[dict[str, float]], list[str]]:
    """The weights after two epochs, what was logged in each, and what the monitor warned of."""
    torch.manual_seed(0)
    model = kind()
    values, said = watched(*callbacks, model=model, max_epochs=2)
    return model.state_dict(), values.rows, said


@pytest.mark.parametrize("kind", [OddTask, ComplexTask, CrowdedTask])
def test_in_training_what_is_undefined_is_skipped_and_said_once(kind: type[OddTask]) -> None:
    cheap = [name for name, entry in MEASURES.items() if entry.forwards < 50 or kind is CrowdedTask]
    weights, rows, said = after_training(kind, tiny_monitor(samples=20, measures=cheap))
    alone, _, _ = after_training(kind)
    assert weights.keys() == alone.keys()
    assert all(torch.equal(weights[name], alone[name]) for name in alone)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["gengap/status"] in (Status.FRESH, Status.ABSTAINING) for row in rows), "not held"
    assert "gengap/margin/output/median" in rows[-1]
    subjects = [message.partition(":")[0] + message.partition(":")[2].partition(" is absent")[0] for message in said]
    assert len(subjects) == len(set(subjects))
    if kind is ComplexTask:
        assert any("gradient_noise/* is absent" in message and "'filter' is complex" in message for message in said)
    if kind is CrowdedTask:
        failed = [message for message in said if "could not measure perturbation in epoch 0" in message]
        assert len(failed) == 1
        assert "measure 'perturbation': got OutOfMemoryError: CUDA out of memory." in failed[0]
