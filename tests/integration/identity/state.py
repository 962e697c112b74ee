"""State of models that their forwards change, beyond parameters and buffers."""

from __future__ import annotations

import functools
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.integration.identity.twins import CLASSES, FEATURES, Condition, Net, perceptron


class Counting(Net):
    """A warm-up by the number of calls."""

    calls = 0

    def touch(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return torch.full((len(inputs), CLASSES), 1.0 / self.calls)


class ClassCounter(Net):
    """The same, kept on the class."""

    def touch(self, inputs: Tensor) -> None:
        type(self).calls = getattr(type(self), "calls", 0) + 1


def class_counter() -> LightningModule:
    return type("Fresh", (ClassCounter,), {"calls": 0, "bank": []})()


class ClassList(Net):
    bank: list[Tensor]

    def touch(self, inputs: Tensor) -> None:
        self.bank.append(inputs.detach().mean())


class ListBank(Net):
    def prepare(self) -> None:
        self.bank: list[Tensor] = []

    def touch(self, inputs: Tensor) -> Tensor:
        self.bank.append(inputs.detach().mean())
        return torch.stack(self.bank).mean()


class DequeBank(Net):
    def prepare(self) -> None:
        self.bank: deque[Tensor] = deque(maxlen=3)

    def touch(self, inputs: Tensor) -> Tensor:
        self.bank.append(inputs.detach().mean())
        return torch.stack(list(self.bank)).sum()


class DictBank(Net):
    def prepare(self) -> None:
        self.seen: dict[str, Any] = {"deep": {"er": [0]}}
        self.counts, self.groups, self.order = Counter(), defaultdict(list), OrderedDict(a=1, b=2)
        self.names: set[int] = set()

    def touch(self, inputs: Tensor) -> Tensor:
        self.seen["deep"]["er"][0] += 1
        self.counts["calls"] += 1
        self.groups[len(self.groups)].append(1)
        self.order.move_to_end("a" if self.counts["calls"] % 2 else "b")
        self.names.add(self.counts["calls"])
        return torch.tensor(0.1 * self.counts["calls"])


class TensorsInContainers(Net):
    def prepare(self) -> None:
        self.pair = (torch.zeros(3), [torch.ones(2)])

    def touch(self, inputs: Tensor) -> Tensor:
        self.pair[0].add_(1)
        self.pair[1][0].mul_(0.9)
        return self.pair[0].sum() * self.pair[1][0].mean()


@dataclass
class Statistics:
    mean: float = 0.0
    seen: list[int] = field(default_factory=list)


class Slotted:
    __slots__ = ("count", "late")

    def __init__(self) -> None:
        self.count = 0


class Plain:
    def __init__(self) -> None:
        self.slotted, self.statistics, self.tensor = Slotted(), Statistics(), torch.zeros(2)
        self.owner: Any = None


class PlainObjects(Net):
    def prepare(self) -> None:
        self.plain = Plain()
        self.plain.owner = [self.plain]  # a circle

    def touch(self, inputs: Tensor) -> Tensor:
        self.plain.slotted.count += 1
        self.plain.slotted.late = 1
        self.plain.statistics.mean += 0.5
        self.plain.statistics.seen.append(1)
        self.plain.tensor += 1
        return torch.tensor(self.plain.statistics.mean + self.plain.slotted.count)


class Arrays(Net):
    def prepare(self) -> None:
        self.array, self.bytes = np.zeros(3), bytearray(b"ab")

    def touch(self, inputs: Tensor) -> Tensor:
        self.array += 1
        self.bytes.append(1)
        return torch.tensor(float(self.array.sum()) + len(self.bytes))


class OwnGenerators(Net):
    def prepare(self) -> None:
        self.torch_own, self.numpy_own = torch.Generator().manual_seed(1), np.random.default_rng(2)
        self.old, self.python_own = np.random.RandomState(3), random.Random(4)
        self.held = {"generators": [torch.Generator().manual_seed(5)]}

    def touch(self, inputs: Tensor) -> Tensor:
        drawn = torch.rand(1, generator=self.torch_own) + torch.rand(1, generator=self.held["generators"][0])
        return drawn + float(self.numpy_own.random() + self.old.rand() + self.python_own.random())


class OwnDropout(nn.Module):
    """Dropout that also drops in eval mode, from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand(inputs.shape, generator=self.generator) > 0.2).to(inputs.device)


class GlobalStreams(Net):
    def touch(self, inputs: Tensor) -> Tensor:
        return torch.rand(1) + float(np.random.rand()) + random.random()


class LateAttributes(Net):
    def touch(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "offset"):
            self.offset = inputs.detach().mean()
            self.register_buffer("scale", inputs.detach().std())
            self.late = nn.Linear(1, 1)
        return self.offset * self.scale


class HiddenModules(Net):
    def prepare(self) -> None:
        self.hidden = [nn.BatchNorm1d(FEATURES, momentum=0.5)]

    def touch(self, inputs: Tensor) -> Tensor:
        return self.hidden[0].to(inputs.device)(inputs).detach()[:, :CLASSES]


class EmaCopy(Net):
    """An average of the weights, updated in each forward and used in the next."""

    def prepare(self) -> None:
        self.ema = [weight.detach().clone() for weight in self.net.parameters()]

    def touch(self, inputs: Tensor) -> Tensor:
        self.ema[:] = [average.to(inputs.device) for average in self.ema]
        for average, weight in zip(self.ema, self.net.parameters(), strict=True):
            average.lerp_(weight.detach(), 0.1)
        return self.ema[0].mean()


class MomentumEncoder(Net):
    def prepare(self) -> None:
        self.slow = perceptron().requires_grad_(False)

    def touch(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.data = 0.9 * slow.data + 0.1 * fast.data
        return self.slow(inputs)


class Queue(Net):
    """The queue of momentum contrast: a buffer with a pointer."""

    def prepare(self) -> None:
        self.register_buffer("queue", torch.zeros(6, FEATURES))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def touch(self, inputs: Tensor) -> Tensor:
        self.queue[int(self.pointer)] = inputs.detach().mean(0)
        self.pointer[0] = (self.pointer[0] + 1) % 6
        return self.queue.mean()


class Rescaled(Net):
    """A forward that writes to its own parameters."""

    def touch(self, inputs: Tensor) -> None:
        with torch.no_grad():
            self.net[0].weight.mul_(0.99)


class Clamped(Net):
    def touch(self, inputs: Tensor) -> None:
        self.net[0].weight.data.clamp_(-0.2, 0.2)


class Frozen(Net):
    def touch(self, inputs: Tensor) -> None:
        self.net[0].bias.requires_grad_(not self.net[0].bias.requires_grad)


class Accumulating(Net):
    """A forward that differentiates, and adds to the gradients in place."""

    def touch(self, inputs: Tensor) -> None:
        with torch.enable_grad():
            loss = 0.01 * self.net(inputs).mean()
            if loss.requires_grad:  # not where a measure calls the model at other weights
                loss.backward()


class Logging(Net):
    def touch(self, inputs: Tensor) -> None:
        self.log("active", inputs.mean(), on_step=False, on_epoch=True)
        self.log_dict({"largest": inputs.max()}, on_step=False, on_epoch=True)


class Nested(Net):
    """A LightningModule inside of another."""

    def prepare(self) -> None:
        self.inner = Logging()
        self.inner.log = self.log  # type: ignore[method-assign]  # the inner one has no Trainer

    def touch(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


class MetricInForward(Net):
    def prepare(self) -> None:
        self.mean, self.all = torchmetrics.MeanMetric(), torchmetrics.CatMetric()
        self.several = torchmetrics.MetricCollection([torchmetrics.MeanMetric(), torchmetrics.SumMetric()])

    def touch(self, inputs: Tensor) -> Tensor:
        for metric in (self.mean, self.all, self.several):
            metric.update(inputs.detach().mean())
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return self.mean.compute()


class MetricInStep(Net):
    def prepare(self) -> None:
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("accuracy", self.accuracy(self(batch[0]), batch[1]), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Hooked(Net):
    """Forward hooks belong to the function; what they remember is restored."""

    def prepare(self) -> None:
        remembered: list[Tensor] = []
        count = 0

        def remember(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            nonlocal count
            count += 1
            remembered.append(output.detach())
            return output + 0.01 * count

        self.net[0].register_forward_hook(remember)
        self.net[2].register_forward_pre_hook(functools.partial(self.before, [0]))
        self.remembered = remembered

    @staticmethod
    def before(count: list[int], module: nn.Module, args: Any) -> None:
        count[0] += 1

    def touch(self, inputs: Tensor) -> Tensor:
        return torch.tensor(0.1 * len(self.remembered))


class BackwardHooked(Net):
    """Hooks of the backward pass count and scale; they belong to training alone."""

    def prepare(self) -> None:
        self.calls = 0
        self.register_buffer("seen", torch.zeros(4))
        self.net[0].register_full_backward_hook(lambda *_: self.count(0))
        self.net[2].register_full_backward_pre_hook(lambda *_: self.count(1))
        self.net[0].weight.register_hook(lambda gradient: self.count(2) or 0.5 * gradient)
        self.net[2].weight.register_post_accumulate_grad_hook(lambda _: self.count(3))

    def count(self, which: int) -> None:
        self.calls += 1
        self.seen[which] += 1


class GradientOfActivations(Net):
    """As for saliency maps: a hook on an activation keeps its gradient."""

    def touch(self, inputs: Tensor) -> None:
        hidden = self.net[0](inputs)
        if hidden.requires_grad:
            hidden.register_hook(self.keep)

    def keep(self, gradient: Tensor) -> None:
        self.gradient = gradient


class CountsLooks(Net):
    """Counts how often its parameters and buffers are asked for."""

    looks = 0

    def prepare(self) -> None:
        self.register_buffer("shift", torch.zeros(1))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        self.looks += 1
        return super().named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        self.looks += 1
        return super().named_buffers(*args, **kwargs)

    def touch(self, inputs: Tensor) -> Tensor:
        return torch.tensor(0.01 * self.looks)


class Global(Net):
    """Forwards that change settings of the process."""

    def touch(self, inputs: Tensor) -> None:
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())


class ViewOfParameter(Net):
    def prepare(self) -> None:
        self.row = self.net[0].weight.detach()[0]
        self.loss_before: Tensor | None = None

    def touch(self, inputs: Tensor) -> Tensor:
        self.loss_before = self.net(inputs).mean()  # with its graph
        return self.row.mul_(0.99).sum()


STATE: dict[str, Condition] = {
    name: Condition(model=model)
    for name, model in {
        "counter": Counting,
        "counter on the class": class_counter,
        "list on the class": lambda: type("Fresh", (ClassList,), {"bank": []})(),
        "list": ListBank,
        "deque": DequeBank,
        "dictionaries and sets": DictBank,
        "tensors in containers": TensorsInContainers,
        "plain objects, slots, dataclass, circle": PlainObjects,
        "arrays": Arrays,
        "own generators": OwnGenerators,
        "dropout with its own generator": lambda: Net(nn.Sequential(OwnDropout(), perceptron())),
        "global streams": GlobalStreams,
        "attributes, buffers and modules made late": LateAttributes,
        "modules in a list": HiddenModules,
        "average of the weights": EmaCopy,
        "momentum encoder": MomentumEncoder,
        "queue": Queue,
        "parameters rescaled": Rescaled,
        "parameters clamped through data": Clamped,
        "parameters frozen in turns": Frozen,
        "gradients accumulated": Accumulating,
        "log in forward": Logging,
        "log in a nested module": Nested,
        "metrics in forward": MetricInForward,
        "metric in the step": MetricInStep,
        "forward hooks": Hooked,
        "backward hooks": BackwardHooked,
        "gradients of activations": GradientOfActivations,
        "parameters that are counted when asked for": CountsLooks,
        "settings": Global,
        "view of a parameter, loss with its graph": ViewOfParameter,
    }.items()
}
