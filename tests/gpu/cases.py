"""What is to be checked on a GPU, as plain functions of a device: they need torch and Lightning, and no pytest."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor
from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures import BY_DEFAULT
from lightning_gengap.measures.curvature.lanczos_runs import estimated
from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe, copy_state
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.samples.reader import Samples
from lightning_gengap.undisturbed import undisturbed
from tests.outcomes import Classifier, different, seed_streams, streams, users

EXAMPLES, CLASSES, SIDE = 320, 4, 12
REPEATS = 3  # of a plain training, which may repeat itself by chance
Case = Callable[[str], None]
CASES: dict[str, Case] = {}


class NotHereError(Exception):
    """The device has not what the case checks."""


def case(name: str) -> Callable[[Case], Case]:
    """Put a function among the cases."""

    def put(function: Case) -> Case:
        CASES[name] = function
        return function

    return put


def images(examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """Noisy images around one mean per class; some labels are wrong, so that not all margins are positive."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(examples) % CLASSES
    means = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator)
    inputs = 0.5 * means[targets] + torch.randn(examples, 3, SIDE, SIDE, generator=generator)
    wrong = torch.rand(examples, generator=generator) < 0.1
    return inputs, torch.where(wrong, (targets + 1) % CLASSES, targets)


def network(dropout: float = 0.1) -> nn.Sequential:
    """Convolutions with batch norm, and dropout."""
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout)]
    body = [nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))


class Net(Classifier):
    """The network in training."""

    def __init__(self, optimizer: str = "sgd", asks: int = 0) -> None:
        super().__init__(network())
        self.optimizer, self.asks = optimizer, asks

    def forward(self, inputs: Tensor) -> Tensor:
        if self.asks and not self.training:  # more memory than there is, where the monitor measures
            return self.net(inputs) + torch.empty(self.asks, device=inputs.device).sum()
        return self.net(inputs)

    def configure_optimizers(self) -> Any:
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        adam = torch.optim.AdamW(self.parameters(), 1e-3)
        return {"optimizer": adam, "lr_scheduler": torch.optim.lr_scheduler.StepLR(adam, 1, 0.5)}


@contextmanager
def repeatable() -> Iterator[None]:
    """The same arithmetic at every run: some kernels add up in any order unless told otherwise."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def loader(**arguments: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*images()), **({"batch_size": 32, "shuffle": True} | arguments))


def trained(device: str, monitor: GapMonitor | None, validated: bool = False, **options: Any) -> dict[str, Any]:
    """Everything that a training leaves behind, and under `monitor` what the monitor showed."""
    arguments = {name: options.pop(name) for name in ("optimizer", "asks") if name in options}
    seed_streams()
    module = Net(**arguments)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        max_epochs=options.pop("max_epochs", 2),
        callbacks=[] if monitor is None else [monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with repeatable():
        trainer.fit(module, loader(), loader(shuffle=False) if validated else None)
    shown = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "streams": streams(),
        "steps": trainer.global_step,
        "logged": users(shown),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "monitor": {key: value for key, value in shown.items() if key.startswith("gengap/")},
    }


def require_identical(device: str, **options: Any) -> dict[str, Any]:
    """Refuse a monitored training that does not end bit for bit where its plain twin ends; what was shown."""
    monitor = GapMonitor(budget=None, on_error="raise", every_n_train_steps=options.pop("every_n_train_steps", None))
    plain, watched = trained(device, None, **options), trained(device, monitor, **options)
    shown = watched.pop("monitor")
    plain.pop("monitor")
    changed = different(plain, watched)
    again = (trained(device, None, **options) for _ in range(REPEATS if changed else 0))
    if any(different(plain["weights"], one["weights"]) for one in again):
        raise NotHereError("the plain training does not repeat itself here")
    assert not changed, f"the monitor changed {changed}"
    assert shown["gengap/status"] == 0, f"the monitor's status is {shown['gengap/status']}"
    assert math.isfinite(shown["gengap/predicted_gap"])
    return shown


@case("identity: SGD, batch norm, dropout")
def identity_plain(device: str) -> None:
    require_identical(device)


@case("identity: AdamW and a scheduler")
def identity_adam(device: str) -> None:
    require_identical(device, optimizer="adam")


@case("identity: accumulated and clipped gradients")
def identity_accumulated(device: str) -> None:
    require_identical(device, accumulate_grad_batches=2, gradient_clip_val=0.5, max_epochs=6)


@case("identity: with a validation")
def identity_validated(device: str) -> None:
    require_identical(device, validated=True)


@case("identity: measured every five steps")
def identity_steps(device: str) -> None:
    require_identical(device, every_n_train_steps=5)


@case("identity and finite values: bfloat16 mixed")
def mixed_bfloat16(device: str) -> None:
    require_identical(device, precision="bf16-mixed")


@case("identity and finite values: float16 mixed")
def mixed_float16(device: str) -> None:
    if device != "cuda":
        raise NotHereError("scaled gradients need CUDA")
    require_identical(device, precision="16-mixed")


@contextmanager
def low_precision() -> Iterator[None]:
    """TF32 and its like switched on."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@case("identity: TF32 on")
def identity_tf32(device: str) -> None:
    with low_precision():
        require_identical(device)


def fitted() -> nn.Sequential:
    """The network after some steps, in eval mode."""
    torch.manual_seed(0)
    model, (inputs, targets) = network(0.0), images()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for rows in torch.arange(len(targets)).split(64) * 5:
        optimizer.zero_grad()
        cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return model.eval()


def probe_on(
    device: str, model: nn.Module, chunk: int, dtype: torch.dtype = torch.float32, examples: int = EXAMPLES
) -> Probe:
    """A probe of a copy of the model; enter `undisturbed` first."""
    twin = copy.deepcopy(model).to(device, dtype)
    inputs, targets = images(examples)
    parts = zip(inputs.to(device, dtype).split(chunk), targets.to(device).split(chunk), strict=True)
    batches = tuple(ProbeBatch((x, y), y, x) for x, y in parts)
    return Probe(model=twin, batches=batches, layout=Layout.of(twin, batches[0], default_forward))


def require_exact_margins(device: str) -> None:
    model = fitted()
    with undisturbed(model):
        found = margin_signature(probe_on(device, model, 64))
        exact = margin_signature(probe_on("cpu", model, EXAMPLES, torch.float64))
    assert found.layers.keys() == exact.layers.keys() == {"input", "h1", "h2", "h3"}
    top = exact.logits.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 1e-3
    for layer, metric in found.layers.items():
        margins, precise = metric.margins()[clear], exact.layers[layer].margins()[clear]
        worst = float(((margins - precise) / precise).abs().max())
        assert worst <= 1e-3, f"margins at {layer} are off by {worst:.1e}"


@case("exactness: margins within 1e-3 of float64 on the CPU")
def exact_margins(device: str) -> None:
    require_exact_margins(device)


@case("exactness: margins with TF32 on")
def exact_margins_tf32(device: str) -> None:
    with low_precision():
        require_exact_margins(device)
        assert torch.get_float32_matmul_precision() == "high"


@case("exactness: soft rank within 1e-3 of float64 on the CPU")
def exact_soft_rank(device: str) -> None:
    model, values = fitted(), []
    with undisturbed(model):
        for place, dtype in ((device, torch.float32), ("cpu", torch.float64)):
            spectrum = estimated(dual_curvature(probe_on(place, model, 32, dtype, examples=64)), 1e-2, 0)
            values.append(spectrum.soft_rank(1e-2).middle)
    assert abs(values[0] / values[1] - 1) <= 1e-3, values


def measurer_on(device: str, model: nn.Module, chunk: int, wanted: frozenset[str] | None = None) -> Measurer:
    parts = zip(*(part.to(device).split(chunk) for part in images()), strict=True)
    samples = Samples(tuple(ProbeBatch((x, y), y, x) for x, y in parts), train_samples=5000, augmented=False)
    return Measurer.of(model, samples, TrainingMemory(initial_state=copy_state(model)), wanted=wanted, raises=True)


@case("exactness: default values within 1e-3 of the CPU's")
def exact_defaults(device: str) -> None:
    values = []
    for place in (device, "cpu"):
        model = copy.deepcopy(fitted()).to(place)
        values.append(measurer_on(place, model, 64).measure(model, (), BY_DEFAULT).values)
    found, exact = values
    assert found.keys() == exact.keys()
    # Accuracies jump where a sample lies on the boundary.
    off = {key for key, value in exact.items() if abs(found[key] - value) > max(1e-3 * abs(value), 3 / EXAMPLES)}
    assert not off, {key: (found[key], exact[key]) for key in off}


@case("waiting: a measurement waits as often for many batches as for few")
def waits(device: str) -> None:
    if device != "cuda":
        raise NotHereError("only CUDA tells when it makes the CPU wait")
    predictor, counts = load_predictor("default"), []
    for chunk in (160, 20):
        model = fitted().to(device)
        measurer = measurer_on(device, model, chunk, frozenset(predictor.needs))
        measurer.measure(model, predictor.measures)
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                measurer.measure(model, predictor.measures)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing CUDA operation" in str(each.message) for each in caught))
    assert counts[0] == counts[1] > 0, counts


@case("out of memory while measuring: one warning, and an unchanged training")
def out_of_memory(device: str) -> None:
    plain = trained(device, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = trained(device, GapMonitor(budget=None), asks=2**46)
    said = [str(each.message) for each in caught if "memory" in str(each.message) and "GapMonitor" in str(each.message)]
    assert said, "the monitor does not say that memory ran out"
    assert not different(plain["weights"], watched["weights"])
    assert watched["monitor"].get("gengap/status", 4) != 0


def chosen(pattern: str) -> list[str]:
    """The names of the cases that match."""
    return [name for name in CASES if fnmatchcase(name, pattern)]


def run(name: str, device: str) -> tuple[str, str]:
    """Run one case without pytest: passed, skipped or failed, and why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CASES[name](device)
    except NotHereError as reason:
        return "skipped", str(reason)
    except Exception as error:  # whatever goes wrong is a line of the report
        return "failed", f"{type(error).__name__}: {error}"
    return "passed", ""
