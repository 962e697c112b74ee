"""Networks that no measure was made for: frozen, shared or complex weights, no gradients, too little memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests import networks


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


class Around(nn.Module):
    """A plain network whose forward goes through `apply`."""

    def __init__(self, apply: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self._apply_body = small(), apply

    def forward(self, images: Tensor) -> Tensor:
        return self._apply_body(self.body, images)


def without_gradients_outside_of_training(body: nn.Module, images: Tensor) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled() and body.training):
        return body(images)


class OutOfMemory(nn.Module):
    """Fails from some forward on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.body, self.left = small(), iter(range(after))  # nobody can restore an iterator

    def forward(self, images: Tensor) -> Tensor:
        if next(self.left, None) is None:
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
    # Near the end of float32: infinite for slightly other inputs or weights.
    "huge": lambda: Around(lambda body, images: 1e38 * body(images)),
    "no_grad": lambda: Around(torch.no_grad()(lambda body, images: body(images))),
    "no_grad outside of training": lambda: Around(without_gradients_outside_of_training),
    "detached": lambda: Around(lambda body, images: body(images).detach()),
    # Its tensors count no changes.
    "inference mode": lambda: Around(torch.inference_mode()(lambda body, images: body(images))),
    # Watching a model takes eight forwards.
    "out of memory at once": lambda: OutOfMemory(8),
    "out of memory later": lambda: OutOfMemory(9),
}
