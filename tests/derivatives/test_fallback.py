from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives import jacobian as jacobian_module
from lightning_gengap.derivatives.fallback import (
    FRUGALITY,
    GRAPHS,
    REBUILT,
    sampled,
    unless_out_of_memory,
    whole,
    with_curvature,
)
from lightning_gengap.derivatives.gauss_newton import Curvature, kept_for_each_sample
from lightning_gengap.derivatives.jacobian import Jacobian
from lightning_gengap.derivatives.memory import SHARE
from lightning_gengap.errors import out_of_memory
from lightning_gengap.measures.curvature.hessian import hessian
from lightning_gengap.measures.curvature.leave_one_out import leave_one_out, network_leave_one_out
from lightning_gengap.measures.curvature.soft_rank import full_soft_rank, soft_rank
from lightning_gengap.measures.curvature.tic import tic
from tests import networks
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 20
MESSAGES = {
    "cuda": "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "cpu": "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ...",
    "cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
}
Build = Callable[..., Jacobian]


class Crowded(nn.Module):
    """Does not fit for more than `limit` samples at once, where weights are differentiated."""

    def __init__(self, limit: int = COUNT) -> None:
        super().__init__()
        self.layers = networks.mlp((6,))
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise RuntimeError(MESSAGES["cuda"])
        return self.layers(images)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected in every fallback; a whole process of tests has too much of it."""
    monkeypatch.setattr("lightning_gengap.derivatives.fallback.gc.collect", lambda: 0)


def task() -> tuple[Crowded, Tensor, Tensor]:
    model, images = networks.made(Crowded).double().eval(), networks.images(COUNT).double()
    return model, images, networks.mostly_right_targets(model, images)


def failing_after(calls: int, build: Build, error: Callable[[], Exception]) -> Build:
    """The same linear maps, of which J raises from a number of calls on."""
    left = [calls]

    def built(*arguments: object) -> Jacobian:
        transposed, applied = build(*arguments)

        def limited(direction: tuple[Tensor, ...]) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise error()
            return applied(direction)

        return Jacobian(transposed, limited)

    return built


def no_memory() -> Exception:
    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    return kind(MESSAGES["cuda"])


@cache
def reference() -> dict[str, float]:
    with probing(*task(), ridge=1e-2) as probe:
        return tic(probe)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_lack_of_memory_is_known_by_its_words(message: str) -> None:
    assert out_of_memory(RuntimeError(message))
    assert out_of_memory(no_memory())


def test_a_set_up_that_does_not_fit_takes_smaller_chunks() -> None:
    model, images, targets = task()
    with probing(model, images, targets, ridge=1e-2) as probe:
        model.limit = 5
        values = tic(probe)
        attempt, notes = probe.cached(sampled), list(probe.notes)
    assert attempt.curvature is not None
    assert attempt.curvature.sizes == (4,) * 5
    assert attempt.curvature.rung == REBUILT
    assert values == pytest.approx(reference(), rel=1e-6)
    assert [note.split(",")[1] for note in notes] == [" 32 samples at once", " 4 samples at once"]
    assert all(MESSAGES["cuda"][:40] in note and "\n" not in note for note in notes)


@pytest.mark.parametrize("calls", [2, 5])
def test_a_product_that_runs_out_of_memory_is_taken_with_graphs_rebuilt(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two calls check the maps; the later ones are products.
    expected = reference()
    monkeypatch.setitem(
        jacobian_module.RUNGS, "linearisation", failing_after(calls, jacobian_module.linearized, no_memory)
    )
    with probing(*task(), ridge=1e-2) as probe:
        values = tic(probe)
        notes, attempt = list(probe.notes), probe.cached(sampled)
    assert values == pytest.approx(expected, rel=1e-6)
    assert attempt.curvature is not None
    assert (attempt.frugality, attempt.curvature.rung) == (1, REBUILT)
    assert len(notes) == 1
    assert "CUDA out of memory" in notes[0]


def test_what_never_fits_is_absent_with_a_note_for_every_measure() -> None:
    model, images, targets = task()
    with probing(model, images, targets) as probe:
        model.limit = 0
        assert soft_rank(probe) == tic(probe) == full_soft_rank(probe) == {}
        final = [note for note in probe.notes if "even one sample" in note]
    assert [note.split(" is absent")[0] for note in final] == [
        "curvature/soft_rank",
        "curvature/tic",
        "curvature/full/*",
    ]
    assert all("RuntimeError: CUDA out of memory" in note for note in final)


def test_every_attempt_gives_the_same_product_and_frees_the_graphs_of_the_one_before() -> None:
    model, images, targets = task()
    exact = oracles.dual(model, images)
    vector = torch.ones(len(exact), dtype=torch.float64)
    held: list[weakref.ref[Curvature]] = []
    seen: list[tuple[int, int]] = []

    def work(curvature: Curvature) -> str:
        assert [reference() for reference in held] == [None] * len(held)
        held.append(weakref.ref(curvature))
        seen.append((curvature.rung, max(curvature.sizes)))
        torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)
        if len(held) < len(FRUGALITY):
            raise no_memory()
        return "done"

    with probing(model, images, targets) as probe:
        assert with_curvature(probe, "this", work) == "done"
    assert seen == [(1, 20), (3, 20), (3, 20), (3, 4), (3, 1)]


@pytest.mark.parametrize(("room", "frugality", "largest"), [(COUNT, 0, COUNT), (5, 3, 4), (1, 4, 1)])
def test_on_the_cpu_the_first_way_is_one_that_fits_into_what_is_left(
    room: int, frugality: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, (model, images, targets) = reference(), task()
    with probing(model, images, targets, ridge=1e-2) as probe:
        each = GRAPHS * probe.cached(kept_for_each_sample)
        assert each > 0
        monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: math.ceil(room * each / SHARE))
        model.limit = room  # what does not fit is never tried: the process would be killed for it
        values = tic(probe)
        attempt, notes = probe.cached(sampled), list(probe.notes)
    assert attempt.curvature is not None
    assert (attempt.frugality, max(attempt.curvature.sizes)) == (frugality, largest)
    assert values == pytest.approx(expected, rel=1e-6)
    assert all(f"{largest} samples at once" in note and "would not fit into memory" in note for note in notes)
    assert len(notes) == (frugality > 0)


def test_where_not_even_one_sample_fits_it_is_absent_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 100)
    monkeypatch.setattr("lightning_gengap.derivatives.fallback.dual_curvature", lambda *_: pytest.fail("tried"))
    with probing(*task()) as probe:
        assert soft_rank(probe) == {}
        assert network_leave_one_out(probe) == {}
        monkeypatch.setattr(sys.modules[hessian.__module__], "room_for", lambda count: True)
        assert hessian(probe) == {}
        notes = list(probe.notes)
    whose = ["curvature/soft_rank", "loo/network/*", "curvature/hessian/*"]
    assert [note.split(" is absent")[0] for note in notes] == whose
    assert all("would not fit into memory" in note for note in notes)


def test_every_step_of_the_ladder_asks_for_less() -> None:
    chunks, rungs = zip(*FRUGALITY, strict=True)
    assert list(chunks) == sorted(chunks, reverse=True)
    assert list(rungs) == sorted(rungs)
    assert len(set(FRUGALITY)) == len(FRUGALITY)
    assert FRUGALITY[-1] == (1, REBUILT)


def test_other_errors_are_raised_and_no_memory_in_a_solve_is_absent() -> None:
    def wrong(curvature: Curvature) -> None:
        raise RuntimeError("a size mismatch")

    with probing(*task()) as probe:
        with pytest.raises(RuntimeError, match="size mismatch"):
            with_curvature(probe, "this", wrong)
        with pytest.raises(RuntimeError, match="size mismatch"):
            unless_out_of_memory(probe, "this", lambda: wrong(None))
        assert unless_out_of_memory(probe, "this", lambda: 3) == 3
        assert probe.notes == []

        def solve() -> None:
            raise MemoryError

        assert unless_out_of_memory(probe, "this", solve) is None
        assert probe.notes == ["this is absent: MemoryError: "]


def test_products_that_are_not_finite_are_absent_with_a_note() -> None:
    def work(curvature: Curvature) -> Tensor:
        nothing = tuple(torch.zeros(()) for _ in model.parameters())
        return curvature.within(nothing).product(torch.ones(COUNT * networks.CLASSES).double())

    model, images, targets = task()
    with probing(model, images, targets) as probe:
        assert with_curvature(probe, "this", work) is None
        assert probe.notes == ["this is absent: ArithmeticError: a product with the curvature is not finite"]


def test_leave_one_out_without_memory_is_absent_with_a_note() -> None:
    model, images, targets = task()
    with probing(model, images, targets) as probe:
        model.limit = 0
        assert leave_one_out(probe) == {}
        assert network_leave_one_out(probe) == {}
    assert [note.split(" is absent: ")[0] for note in probe.notes] == ["loo/last_layer/*", "loo/network/*"]
    assert all("CUDA out of memory" in note for note in probe.notes)


def test_all_samples_of_the_probe_are_another_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.fallback.SAMPLES", 6)
    model, images, targets = task()
    with probing(model, images, targets) as probe:
        few, full = soft_rank(probe), full_soft_rank(probe)
        assert probe.cached(sampled) is not probe.cached(whole)
    assert (few["curvature/samples"], full["curvature/full/samples"]) == (6, COUNT)
    exact = oracles.soft_rank(oracles.dual(model, images), 1e-3)
    assert full["curvature/full/soft_rank"] == pytest.approx(exact, rel=0.1)
    assert full["curvature/full/soft_rank_lower"] <= full["curvature/full/soft_rank"]
    assert full["curvature/full/soft_rank"] > few["curvature/soft_rank"]


@pytest.mark.parametrize("text", ["a size mismatch", "memory format", "expected all tensors on one device"])
def test_other_texts_are_no_lack_of_memory(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))
    assert not out_of_memory(ValueError("out of memory"))
