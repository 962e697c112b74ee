from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.fallback import GRAPHS, LADDER, undefined_where_it_fails, undefined_without_memory
from lightning_gengap.derivatives.gauss_newton import Curvature, sampled, whole, with_curvature
from lightning_gengap.derivatives.jacobian import DOUBLE_BACKWARD, LINEARISATION, METHODS, REBUILT, Jacobian
from lightning_gengap.derivatives.memory import SHARE
from lightning_gengap.derivatives.weights import kept_for_each_sample
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.curvature import lanczos_runs
from lightning_gengap.measures.curvature.hessian import hessian
from lightning_gengap.measures.curvature.soft_rank import full_soft_rank, soft_rank
from lightning_gengap.measures.curvature.tic import tic
from tests import networks
from tests.derivatives.tasks import Task, task
from tests.oracles import curvature as oracles
from tests.probes import probing, taken

COUNT = 20
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 GiB."
NOT_FINITE = "a product with the curvature is not finite"
Build = Callable[..., Jacobian]


class Crowded(nn.Module):
    """Does not fit for more than `limit` samples at once, where weights are differentiated."""

    def __init__(self, limit: int = COUNT) -> None:
        super().__init__()
        self.layers = networks.mlp((6,))
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise RuntimeError(OUT_OF_MEMORY)
        return self.layers(images)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected in every fallback; a whole process of tests has too much of it."""
    monkeypatch.setattr("lightning_gengap.derivatives.fallback.gc.collect", lambda: 0)


def no_memory() -> Exception:
    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    return kind(OUT_OF_MEMORY)


def crowded() -> Task:
    return task(Crowded, COUNT)


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


@cache
def reference() -> dict[str, float]:
    with probing(*crowded(), ridge=1e-2) as probe:
        return tic(probe)


def test_every_step_of_the_ladder_asks_for_less() -> None:
    methods, chunks = zip(*LADDER, strict=True)
    assert [*dict.fromkeys(methods)] == [*METHODS]
    assert list(chunks) == sorted(chunks, reverse=True)
    assert len(set(LADDER)) == len(LADDER)
    assert LADDER[-1] == (REBUILT, 1)
    held = [step.held(1000) for step in LADDER]
    assert held == sorted(held, reverse=True)


def test_a_set_up_that_does_not_fit_takes_smaller_chunks() -> None:
    model, images, targets = crowded()
    with probing(model, images, targets, ridge=1e-2) as probe:
        model.limit = 5
        values = tic(probe)
        used, notes = probe.cached(sampled), list(probe.notes)
    assert used.built is not None
    assert used.built.sizes == (4,) * 5
    assert used.built.method == REBUILT
    assert values == pytest.approx(reference(), rel=1e-6)
    (note,) = notes
    assert note.startswith("curvature/* takes longer by graphs rebuilt for every product, 4 samples at once")
    assert note.count(OUT_OF_MEMORY[:40]) == 1
    assert "\n" not in note


@pytest.mark.parametrize("calls", [2, 5])
def test_a_product_that_runs_out_of_memory_is_taken_by_the_next_method(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two calls check the maps; the later ones are products.
    expected = reference()
    for method in (LINEARISATION, DOUBLE_BACKWARD):
        monkeypatch.setitem(METHODS, method, failing_after(calls, METHODS[method], no_memory))
        with probing(*crowded(), ridge=1e-2) as probe:
            values = tic(probe)
            (note,), used = probe.notes, probe.cached(sampled)
        assert values == pytest.approx(expected, rel=1e-6)
        assert used.built is not None
        assert used.built.method == (DOUBLE_BACKWARD if method == LINEARISATION else REBUILT)
        assert f"takes longer by {used.steps[0]}" in note
        assert "CUDA out of memory" in note


ABSENT = {
    "soft_rank": "curvature/*",
    "tic": "curvature/tic*",
    "full_soft_rank": "curvature/full/*",
    "hessian": "curvature/hessian/*",
    "leave_one_out": "loo/last_layer/*",
    "network_leave_one_out": "loo/network/*",
}


def test_what_never_fits_is_absent_for_every_measure() -> None:
    model, images, targets = crowded()
    with probing(model, images, targets) as probe:
        model.limit = 0
        found = {name: taken(name, probe) for name in ABSENT}
    assert {name: [*part.absent] for name, part in found.items()} == {name: [keys] for name, keys in ABSENT.items()}
    for name, part in found.items():
        (why,) = part.absent.values()
        ladder = "" if "leave_one_out" in name else "even one sample at a time does not fit ("
        assert why.startswith(f"{ladder}RuntimeError: CUDA out of memory")
        assert part.values == {}


def test_every_step_gives_the_same_product_and_frees_the_graphs_of_the_one_before() -> None:
    model, images, targets = crowded()
    exact = oracles.dual(model, images)
    vector = torch.ones(len(exact), dtype=torch.float64)
    held: list[weakref.ref[Curvature]] = []
    seen: list[tuple[str, int]] = []

    def work(curvature: Curvature) -> str:
        assert [reference() for reference in held] == [None] * len(held)
        held.append(weakref.ref(curvature))
        seen.append((curvature.method, max(curvature.sizes)))
        torch.testing.assert_close(curvature.product(vector), exact @ vector, rtol=1e-9, atol=1e-12)
        if len(held) < len(LADDER):
            raise no_memory()
        return "done"

    with probing(model, images, targets) as probe:
        assert with_curvature(probe, work) == "done"
    assert seen == [
        (LINEARISATION, 20),
        (DOUBLE_BACKWARD, 20),
        (REBUILT, 20),
        (REBUILT, 20),
        (REBUILT, 4),
        (REBUILT, 1),
    ]


@pytest.mark.parametrize(("room", "left", "largest"), [(COUNT, 6, COUNT), (5, 2, 4), (1, 1, 1)])
def test_on_the_cpu_the_first_step_is_one_that_fits_into_what_is_left(
    room: int, left: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, (model, images, targets) = reference(), crowded()
    with probing(model, images, targets, ridge=1e-2) as probe:
        each = GRAPHS * probe.cached(kept_for_each_sample)
        assert each > 0
        monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: math.ceil(room * each / SHARE))
        monkeypatch.setattr(lanczos_runs, "require_room", lambda *_: None)  # the vectors are larger than these graphs
        model.limit = room  # what does not fit is never tried: the process would be killed for it
        values = tic(probe)
        used, notes = probe.cached(sampled), list(probe.notes)
    assert used.built is not None
    assert (len(used.steps), max(used.built.sizes)) == (left, largest)
    assert values == pytest.approx(expected, rel=1e-6)
    assert all(f"{largest} samples at once" in note and "would not fit into memory" in note for note in notes)
    assert len(notes) == (room < COUNT)


def test_where_not_even_one_sample_fits_it_is_absent_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 100)
    monkeypatch.setattr("lightning_gengap.derivatives.gauss_newton.dual_curvature", lambda *_: pytest.fail("tried"))
    module = sys.modules[hessian.__module__]
    monkeypatch.setattr(module, "require_room", lambda *_: None)
    monkeypatch.setattr(module, "hessian_product", lambda *_: pytest.fail("tried"))
    with probing(*crowded()) as probe:
        found = [taken(name, probe) for name in ("soft_rank", "network_leave_one_out", "hessian")]
    assert [list(part.absent) for part in found] == [["curvature/*"], ["loo/network/*"], ["curvature/hessian/*"]]
    assert all("would not fit into memory" in why for part in found for why in part.absent.values())


def test_other_errors_are_raised() -> None:
    def wrong(curvature: Curvature) -> None:
        raise RuntimeError("a size mismatch")

    with probing(*crowded()) as probe, pytest.raises(RuntimeError, match="size mismatch"):
        with_curvature(probe, wrong)


def test_blocks_that_fail_are_undefined_in_one_line() -> None:
    with pytest.raises(Undefined, match="MemoryError: "), undefined_without_memory():
        raise MemoryError
    with pytest.raises(RuntimeError, match="size mismatch"), undefined_without_memory():
        raise RuntimeError("a size mismatch")
    with pytest.raises(Undefined, match=r"^RuntimeError: a size mismatch$"), undefined_where_it_fails():
        raise RuntimeError("a size mismatch\nin many lines")
    with pytest.raises(Undefined, match=r"^a reason$"), undefined_where_it_fails():
        raise Undefined("a reason")


def test_products_that_are_not_finite_are_undefined() -> None:
    def work(curvature: Curvature) -> Tensor:
        nothing = tuple(torch.zeros(()) for _ in model.parameters())
        return curvature.within(nothing).product(torch.ones(COUNT * networks.CLASSES).double())

    model, images, targets = crowded()
    with probing(model, images, targets) as probe, pytest.raises(Undefined, match=rf"^ArithmeticError: {NOT_FINITE}$"):
        with_curvature(probe, work)


def test_all_samples_of_the_probe_are_another_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.derivatives.gauss_newton.SAMPLES", 6)
    model, images, targets = crowded()
    with probing(model, images, targets) as probe:
        few, full = soft_rank(probe), full_soft_rank(probe)
        assert probe.cached(sampled) is not probe.cached(whole)
    assert (few["curvature/samples"], full["curvature/full/samples"]) == (6, COUNT)
    exact = oracles.soft_rank(oracles.dual(model, images), 1e-3)
    assert full["curvature/full/soft_rank"] == pytest.approx(exact, rel=0.1)
    assert full["curvature/full/soft_rank_lower"] <= full["curvature/full/soft_rank"]
    assert full["curvature/full/soft_rank"] > few["curvature/soft_rank"]
