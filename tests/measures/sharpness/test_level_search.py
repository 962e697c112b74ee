from __future__ import annotations

from collections.abc import Callable

import pytest

from lightning_gengap.measures.sharpness.level_search import Level, drop_under_noise, find_level
from lightning_gengap.measures.sharpness.weight_noise import absolute
from lightning_gengap.network.folding import folded
from tests.measures.sharpness.tasks import separate
from tests.probes import probing


@pytest.mark.parametrize("planted", [1e-3, 0.02, 0.35, 1.0, 1.9])
@pytest.mark.parametrize("start", [None, 0.5, 1.0, 1.2, 20.0])
def test_bisection_finds_a_planted_level(planted: float, start: float | None) -> None:
    trials = []

    def drop(sigma: float) -> float:
        trials.append(sigma)
        return min(0.1 * (sigma / planted) ** 1.5, 0.9)

    level = find_level(drop, None if start is None else start * planted)
    assert abs(level.drop - 0.1) <= 0.01
    assert level.value == pytest.approx(planted, rel=0.08)
    assert all(0 < sigma <= 2 for sigma in trials)
    assert len(trials) <= (15 if start in (None, 20.0) else 5)


@pytest.mark.parametrize(
    ("drop", "found", "censored"),
    [
        (lambda sigma: 0.05, False, True),  # all of the range is tolerated
        (lambda sigma: 0.3, False, False),  # none of it is
        (lambda sigma: 0.0 if sigma < 0.7 else 0.5, False, False),  # the accuracy jumps
        (lambda sigma: 0.1 * sigma, True, False),
        (lambda sigma: 0.052 * sigma, True, False),  # found just below the end
    ],
)
@pytest.mark.parametrize("start", [None, 1e-3, 2.0])
def test_a_level_says_whether_it_was_found_or_lies_beyond_the_range(
    drop: Callable[[float], float], found: bool, censored: bool, start: float | None
) -> None:
    level = find_level(drop, start)
    assert (level.found, level.censored) == (found, censored)
    if censored:
        assert level.value > 1.9


@pytest.mark.parametrize(("drop", "found"), [(0.0, 2.0), (0.5, 0.0)])
def test_bisection_ends_at_the_end_of_its_range(drop: float, found: float) -> None:
    level = find_level(lambda sigma: drop)
    assert level.drop == drop
    assert level.value == pytest.approx(found, abs=1e-3)


def test_the_tolerance_is_a_hundredth() -> None:
    assert Level(1.0, 0.1099).found
    assert Level(1.0, 0.0901).found
    assert not Level(1.0, 0.1101).found
    assert not Level(1.0, 0.0899).found


def test_few_draws_are_enough_far_from_the_target() -> None:
    calls = []
    with probing(*separate()) as probe:
        network = probe.cached(folded)
        plain = probe.forward
        object.__setattr__(probe, "forward", lambda model, batch: calls.append(0) or plain(model, batch))
        assert drop_under_noise(probe, network, absolute(1e-3), 1.0) == 0
        assert len(calls) == 3
        drop_under_noise(probe, network, absolute(0.55), 1.0)
        assert len(calls) == 13
