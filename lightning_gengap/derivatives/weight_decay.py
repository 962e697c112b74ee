"""The penalty that an optimizer puts on the weights, as a ridge on the mean loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_gengap.derivatives.jacobian import Weights
from lightning_gengap.derivatives.weights import trained
from lightning_gengap.errors import one_line
from lightning_gengap.network.probe import Probe

ASSUMED_RIDGE = 1e-3
# Times the smallest positive decay, the ridge of groups without any. Every factor of ten less raises the soft rank by a
# few percent and the products that it takes by a third. No value is the right one.
FLOOR = 0.1
COUPLED = (SGD, Adam, Adamax, NAdam, RAdam, Adadelta, Adagrad, RMSprop)
DECOUPLED = (Adam, AdamW, NAdam)  # those whose metric is sqrt(v) + eps


class Ridge(NamedTuple):
    """The diagonal ridge R on the mean loss, split into its size and its shape.

    Attributes:
        value: the geometric mean of R over the parameters.
        assumed: whether nothing is known, and `value` is `ASSUMED_RIDGE`.
        metric: R / value by trained parameter, 0-d or of its shape; None where R is uniform.
    """

    value: float
    assumed: bool
    metric: Weights | None = None


def ridge_of(probe: Probe) -> Ridge:
    """The ridge that the probe states, else that of its optimizer, else `ASSUMED_RIDGE`.

    Parameters that a mapping does not name have the geometric mean of the others.

    Raises:
        Undefined: the ridge differs between parameters, and none is trained.
    """
    decay = decay_of(probe.optimizers, probe.model, probe.notes) if probe.ridge is None else probe.ridge
    if not isinstance(decay, Mapping):
        return Ridge(decay, False) if decay is not None and decay > 0 else Ridge(ASSUMED_RIDGE, True)
    weights = trained(probe)
    known = {name: (decay[name], weight.numel()) for name, weight in weights.items() if name in decay}
    if not known:
        return Ridge(ASSUMED_RIDGE, True)
    numbers = {float(part) if part.ndim == 0 else None for part, _ in known.values()}
    if len(numbers) == 1 and None not in numbers:
        return Ridge(numbers.pop() or ASSUMED_RIDGE, False)
    logs = sum(float(part.log().mean()) * size for part, size in known.values())
    value = math.exp(logs / sum(size for _, size in known.values()))
    if not 0 < value < math.inf:
        probe.notes.append("curvature/lambda is assumed, the optimizer's weight decay is absent: it is not finite")
        return Ridge(ASSUMED_RIDGE, True)
    metric = tuple(decay[name] / value if name in known else torch.ones(()) for name in weights)
    return Ridge(value, False, metric)


def decay_of(optimizers: Sequence[Any], model: nn.Module, notes: list[str]) -> dict[str, Tensor] | None:
    """The ridge on the mean loss that the optimizers put on each trained parameter.

    Coupled decay, which is added to the gradient (SGD, Adam and their kin), is an L2 penalty: the ridge is
    `weight_decay`. Decoupled decay (AdamW; NAdam and Adam with `decoupled_weight_decay`) is no penalty. It acts as the
    ridge weight_decay D, with D = sqrt(v) + eps and v the bias-corrected second moment: the step g / D + weight_decay w
    vanishes where g + weight_decay D w does. This ridge differs between weights and moves with training. Groups
    without decay have `FLOOR` times the smallest positive one.

    Args:
        optimizers: what trains the model; they are only read.
        model: the network.
        notes: takes a remark where the decay cannot be known: there are several optimizers, one of a class that is
            not among these (a subclass may step otherwise), or trained parameters outside the optimizer.

    Returns:
        The positive ridges by name, each 0-d or of the parameter's shape; None where there is no decay or it cannot
        be known.
    """
    if not optimizers:
        return None
    try:
        found = _read([getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers], model)
    except Exception as error:  # an optimizer may keep anything as its state
        found = one_line(error)
    if isinstance(found, str):
        notes.append(f"curvature/lambda is assumed, the optimizer's weight decay is absent: {found}")
        return None
    return found


def _read(optimizers: Sequence[Optimizer], model: nn.Module) -> dict[str, Tensor] | str | None:
    """The ridges, None without decay, or why they are unknown."""
    decays = [float(group.get("weight_decay") or 0) for one in optimizers for group in one.param_groups]
    least = min((decay for decay in decays if decay > 0), default=None)
    if least is None:
        return None
    if len(optimizers) > 1:
        return f"there are {len(optimizers)} optimizers"
    (optimizer,) = optimizers
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    ridges: dict[str, Tensor] = {}
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        decoupled = group.get("decoupled_weight_decay", type(optimizer) is AdamW)
        if type(optimizer) not in (DECOUPLED if decoupled else COUPLED):
            return f"how that of {type(optimizer).__name__} acts is not known"
        for parameter in group["params"]:
            if id(parameter) not in names:
                continue
            ridge = torch.tensor(max(decay, FLOOR * least), dtype=torch.float64)
            if decoupled:
                scale = _scale(optimizer, group, parameter)
                if scale is None:  # never stepped: it has no gradient, and its ridge no effect
                    names.pop(id(parameter))
                    continue
                ridge = float(ridge) * scale
            ridges[names.pop(id(parameter))] = ridge
    return f"{len(names)} trained parameters are not in the optimizer" if names else ridges


def _scale(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> Tensor | None:
    """What AdamW divides the gradient by, sqrt(v) + eps; None before the first step."""
    state = optimizer.state.get(parameter)  # indexing would add an entry
    if not state:
        return None
    moment = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"].detach()
    moment = moment.float() if moment.dtype.itemsize < 4 else moment
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    tiny = torch.finfo(moment.dtype).tiny ** 0.5
    return (moment / correction).sqrt() + max(float(group["eps"]), tiny)
