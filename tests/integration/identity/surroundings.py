"""What lies around a network: contexts, caches, other modules, hooks of the process, loggers, and what a step makes."""

from __future__ import annotations

import copy
import decimal
import enum
import functools
import io
import os
import pickle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.module import register_module_forward_hook

from tests.integration.identity.twins import Condition, Net
from tests.undisturbed import tally_elsewhere

CALLS: ContextVar[int] = ContextVar("CALLS", default=0)


class Context(Net):
    def prepare(self) -> None:
        CALLS.set(0)

    def touch(self, inputs: Tensor) -> Tensor:
        CALLS.set(CALLS.get() + 1)
        return torch.tensor(0.1 * CALLS.get())


@functools.lru_cache
def drawn(size: int) -> Tensor:
    return torch.randn(size, 1)


class Cached(Net):
    """Random numbers that are drawn once for each size of a batch."""

    def prepare(self) -> None:
        drawn.cache_clear()

    def touch(self, inputs: Tensor) -> Tensor:
        return drawn(len(inputs))


class Weak(Net):
    def prepare(self) -> None:
        self.met = WeakValueDictionary()

    def touch(self, inputs: Tensor) -> Tensor:
        self.met[str(len(self.met))] = self.net
        return torch.tensor(0.1 * len(self.met))


class Written(Net):
    def prepare(self) -> None:
        self.text, self.bytes = io.StringIO(), io.BytesIO()

    def touch(self, inputs: Tensor) -> Tensor:
        self.text.write(str(len(inputs)))
        self.bytes.write(b"ab")
        return torch.tensor(0.01 * (self.text.tell() + self.bytes.tell()))


class Tabled(Net):
    def prepare(self) -> None:
        import pandas as pd

        self.table = pd.DataFrame({"calls": [0.0], "rows": ["x"]})

    def touch(self, inputs: Tensor) -> Tensor:
        self.table.loc[0, "calls"] += 1
        self.table.loc[len(self.table)] = [len(inputs), "y"]
        return torch.tensor(0.01 * float(self.table["calls"].sum()))


class Phase(enum.Enum):
    WARM = 1

    def __init__(self, value: int) -> None:
        self.calls = 0


class Enumerated(Net):
    def prepare(self) -> None:
        Phase.WARM.calls = 0

    def touch(self, inputs: Tensor) -> Tensor:
        Phase.WARM.calls += 1
        return torch.tensor(0.1 * Phase.WARM.calls)


class CountsElsewhere(Net):
    def prepare(self) -> None:
        tally_elsewhere.CALLS = 0

    def touch(self, inputs: Tensor) -> Tensor:
        tally_elsewhere.CALLS += 1
        tally_elsewhere.SEEN["calls"] = tally_elsewhere.CALLS
        return torch.tensor(0.1 * tally_elsewhere.SEEN["calls"])


class Process(Net):
    def prepare(self) -> None:
        os.environ["CALLS_OF_A_FORWARD"] = "0"
        decimal.getcontext().prec = 28

    def touch(self, inputs: Tensor) -> Tensor:
        calls = int(os.environ["CALLS_OF_A_FORWARD"]) + 1
        os.environ["CALLS_OF_A_FORWARD"] = str(calls % 7)
        np.seterr(over="ignore" if calls % 2 else "warn")
        decimal.getcontext().prec += 1
        torch.set_float32_matmul_precision("highest" if calls % 2 else "high")
        return torch.tensor(0.1 * calls + 0.01 * decimal.getcontext().prec)


class Told(nn.Module):
    """Logs by a method of another module."""

    def __init__(self, log: Callable[..., Any]) -> None:
        super().__init__()
        self.log = log

    def forward(self, inputs: Tensor) -> Tensor:
        self.log("told", inputs.mean(), on_step=True, on_epoch=True)
        return inputs


class LogsElsewhere(Net):
    def prepare(self) -> None:
        self.told = Told(self.log)
        self.say = functools.partial(self.log, on_step=False, on_epoch=True)

    def touch(self, inputs: Tensor) -> None:
        self.told(inputs)
        self.say("said", inputs.max())
        if self.logger is not None:
            self.logger.log_metrics({"direct": float(inputs.min())}, step=self.global_step)


class GlobalHook(Callback):
    """Counts all calls of modules in the process."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def on_fit_start(self, trainer: Any, module: LightningModule) -> None:
        calls = self.calls

        def count(part: nn.Module, *_: Any) -> None:
            calls[type(part).__name__] = calls.get(type(part).__name__, 0) + 1

        self.handle = register_module_forward_hook(count)

    def on_train_epoch_end(self, trainer: Any, module: LightningModule) -> None:
        module.log("calls", float(sum(self.calls.values())))

    def teardown(self, trainer: Any, module: LightningModule, stage: str) -> None:
        self.handle.remove()


def using(use: Callable[[nn.Module, Tensor], Any]) -> Condition:
    """A step that uses its network otherwise before it trains it, and logs how large what it got is."""

    class Uses(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("size", float(use(self.net, batch[0])))
            return super().training_step(batch, batch_idx)

    return Condition(Uses)


def scripted(net: nn.Module, inputs: Tensor) -> Tensor:
    return torch.jit.script(net)(inputs).sum()


def traced(net: nn.Module, inputs: Tensor) -> int:
    return str(torch.jit.trace(net, inputs).graph).count("aten::")


def exported(net: nn.Module, inputs: Tensor) -> int:
    return len(torch.export.export(net, (inputs,)).graph.nodes)


def saved(net: nn.Module, inputs: Tensor) -> int:
    file = io.BytesIO()
    torch.save(net, file)
    return file.tell()


class PerSample(Net):
    """Gradients of each sample, clipped and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        weights = {name: weight.detach() for name, weight in self.net.named_parameters()}

        def loss(own: dict[str, Tensor], row: Tensor, target: Tensor) -> Tensor:
            return cross_entropy(torch.func.functional_call(self.net, own, (row[None],)), target[None])

        found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, *batch)
        for name, weight in self.net.named_parameters():
            weight.grad = found[name].clamp(-0.1, 0.1).mean(0)
        self.optimizers().step()


class Mapped(Net):
    """The network, mapped over single samples."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.func.vmap(self.net)(inputs[:, None])[:, 0]


def _has_pandas() -> bool:
    """On a machine with a GPU there may be torch and Lightning alone."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


SURROUNDINGS: dict[str, Condition] = {
    **{
        name: Condition(model)
        for name, model in {
            "context variable": Context,
            "cache of results": Cached,
            "weak container": Weak,
            "text and bytes in memory": Written,
            "enumeration with a state": Enumerated,
            **({"table of pandas": Tabled} if _has_pandas() else {}),
            "counter in another module": CountsElsewhere,
            "environment, errors of numpy, precision, decimals": Process,
            "log by other objects, and by the logger": LogsElsewhere,
            "gradients of single samples": PerSample,
            "network mapped over samples": Mapped,
        }.items()
    },
    "global hook that counts": Condition(callbacks=lambda: [GlobalHook()]),
    "network pickled in the step": using(lambda net, inputs: len(pickle.dumps(net))),
    "network saved whole in the step": using(saved),
    "network copied in the step": using(lambda net, inputs: len(list(copy.deepcopy(net).modules()))),
    "network scripted in the step": using(scripted),
    "network traced in the step": using(traced),
    "network exported in the step": using(exported),
    "hooks counted in the step": using(lambda net, inputs: sum(len(part._forward_hooks) for part in net.modules())),
}
