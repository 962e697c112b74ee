from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_gengap.linalg.lanczos import Bracket, Tridiagonal, lanczos, shrinkage

SIZE = 60
SPECTRA = {
    "geometric": torch.logspace(-8, 1, SIZE, dtype=torch.float64),
    "uniform": torch.linspace(0.01, 1, SIZE, dtype=torch.float64),
    "half zero": torch.cat(
        [torch.zeros(SIZE // 2, dtype=torch.float64), torch.logspace(-4, 2, SIZE // 2, dtype=torch.float64)]
    ),
    "one outlier": torch.cat([torch.full((SIZE - 1,), 1e-3), torch.tensor([1e3])]).double(),
    "clusters": torch.tensor([1e-6, 1e-3, 1.0], dtype=torch.float64).repeat(SIZE // 3),
}
spectra = pytest.mark.parametrize("eigenvalues", SPECTRA.values(), ids=SPECTRA.keys())
ridges = pytest.mark.parametrize("ridge", [1e-5, 1e-3, 1e-1])


def signs(size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double())[0]
    return rotation @ eigenvalues.diag() @ rotation.T


def shrunk_exactly(eigenvalues: Tensor, start: Tensor, ridge: float) -> float:
    return float((start.square() * eigenvalues / (eigenvalues + ridge)).sum())


@spectra
@ridges
def test_the_bracket_holds_the_exact_form_and_shrinks(eigenvalues: Tensor, ridge: float) -> None:
    start = signs()
    exact = shrunk_exactly(eigenvalues, start, ridge)
    slack = 1e-9 * exact
    before = Bracket(0.0, math.inf, 1.0)
    for steps in (1, 2, 3, 5, 10, 20, SIZE):
        bracket = shrinkage(lanczos(lambda v: eigenvalues * v, start, steps), ridge)
        assert bracket.lower <= exact + slack
        assert bracket.upper >= exact - slack
        assert bracket.lower >= before.lower - slack
        assert bracket.upper <= before.upper + slack
        before = bracket
    assert before.half_width < 1e-6


@spectra
@ridges
def test_the_continued_fraction_is_the_rule_from_nodes_and_weights(eigenvalues: Tensor, ridge: float) -> None:
    tridiagonal = lanczos(lambda v: eigenvalues * v, signs(), 8)
    bracket = shrinkage(tridiagonal, ridge)
    for rule, end in ((tridiagonal.gauss(), bracket.upper), (tridiagonal.gauss_radau(), bracket.lower)):
        assert end == pytest.approx(rule.value(lambda x: x.clamp(min=0) / (x.clamp(min=0) + ridge)), rel=1e-7)


@pytest.mark.parametrize(
    "eigenvalues", [SPECTRA["uniform"], torch.linspace(-1, 2, 30).double()], ids=["definite", "indefinite"]
)
def test_both_rules_integrate_polynomials_and_one_has_a_node_at_zero(eigenvalues: Tensor) -> None:
    start = signs(len(eigenvalues))
    run = lanczos(lambda vector: eigenvalues * vector, start, 4)
    gauss, radau = run.gauss(), run.gauss_radau()
    assert (len(gauss.nodes), len(radau.nodes)) == (4, 5)
    assert 0 in radau.nodes.tolist()
    assert (float(gauss.nodes[0]) < 0) == (float(eigenvalues[0]) < 0)
    for rule, degree in ((gauss, 7), (radau, 8)):  # below twice the steps, and one more for the node
        for power in range(degree + 1):
            exact = float(start.square() @ eigenvalues**power)
            assert rule.value(lambda nodes, power=power: nodes**power) == pytest.approx(exact, rel=1e-9)
    assert run.form == pytest.approx(float(start.square() @ eigenvalues))


def test_a_dense_matrix_gives_what_its_eigenvalues_do() -> None:
    matrix, start = symmetric(SPECTRA["geometric"]), signs()
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    exact = shrunk_exactly(eigenvalues.clamp(min=0), vectors.T @ start, 1e-2)
    bracket = shrinkage(lanczos(lambda v: matrix @ v, start, 40), 1e-2)
    assert bracket.lower <= exact * (1 + 1e-9)
    assert bracket.upper >= exact * (1 - 1e-9)
    assert bracket.middle == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("kept", [2, 5])
def test_with_few_vectors_kept_copies_of_eigenvalues_share_a_weight(kept: int) -> None:
    size, shapes = 400, []
    eigenvalues = torch.cat([torch.tensor([1e3, 3e2, 1e2]), torch.linspace(1e-3, 1, size - 3)]).double()
    start = signs(size)

    def product(vector: Tensor) -> Tensor:
        shapes.append(vector.shape)
        return (eigenvalues.float() * vector.float()).double()

    exact = shrunk_exactly(eigenvalues, start, 1e-2)
    whole, short = lanczos(product, start, 60), lanczos(product, start, 60, kept=kept)
    nodes, weights = short.gauss()
    assert shapes == [(size,)] * 120
    assert int((nodes > 50).sum()) > 3  # copies, which the whole basis has none of
    assert int((whole.gauss().nodes > 50).sum()) == 3
    for eigenvalue in (1e3, 3e2, 1e2):
        there = (nodes / eigenvalue - 1).abs() < 1e-3
        assert float(weights[there].sum()) == pytest.approx(1, rel=1e-2)  # the start's signs have squares of 1
    assert short.gauss().value(lambda x: x.clamp(min=0) / (x.clamp(min=0) + 1e-2)) == pytest.approx(exact, rel=1e-2)


def test_float32_products_keep_the_bracket() -> None:
    matrix, start = symmetric(SPECTRA["half zero"]), signs()
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    exact = shrunk_exactly(eigenvalues.clamp(min=0), vectors.T @ start, 1e-2)
    single = matrix.float()
    for steps in (5, 10, 20, 40, 60):
        bracket = shrinkage(lanczos(lambda v: (single @ v.float()).double(), start, steps), 1e-2)
        assert bracket.lower <= exact * (1 + 1e-4)
        assert bracket.upper >= exact * (1 - 1e-4)
    assert bracket.middle == pytest.approx(exact, rel=1e-3)


def test_the_zero_matrix_breaks_down_to_zero() -> None:
    tridiagonal = lanczos(torch.zeros_like, signs(), 10)
    assert len(tridiagonal) == 1
    assert shrinkage(tridiagonal, 1e-3) == Bracket(0.0, 0.0, 0.0)
    assert shrinkage(tridiagonal, 1e-3).half_width == 0


def test_the_zero_vector_needs_no_product() -> None:
    tridiagonal = lanczos(lambda v: pytest.fail("a product"), torch.zeros(3, dtype=torch.float64), 10)
    assert len(tridiagonal) == 0
    assert tridiagonal.form == 0
    assert shrinkage(tridiagonal, 1e-3) == Bracket(0.0, 0.0, 0.0)


def test_an_invariant_subspace_ends_the_run_with_a_closed_bracket() -> None:
    eigenvalues = SPECTRA["clusters"]
    tridiagonal = lanczos(lambda v: eigenvalues * v, signs(), 50)
    bracket = shrinkage(tridiagonal, 1e-3)
    assert len(tridiagonal) == 3
    assert float(tridiagonal.coupling[-1]) == 0
    assert bracket.lower == bracket.upper == pytest.approx(shrunk_exactly(eigenvalues, signs(), 1e-3), rel=1e-12)


def test_it_stops_when_told() -> None:
    seen: list[Tridiagonal] = []

    def enough(tridiagonal: Tridiagonal) -> bool:
        seen.append(tridiagonal)
        return shrinkage(tridiagonal, 1e-2).half_width < 0.02

    tridiagonal = lanczos(lambda v: SPECTRA["geometric"] * v, signs(), SIZE, enough)
    assert 2 < len(tridiagonal) == len(seen) < SIZE
    assert shrinkage(tridiagonal, 1e-2).half_width < 0.02 <= shrinkage(seen[-2], 1e-2).half_width


def test_a_start_almost_in_the_null_space_keeps_its_relative_accuracy() -> None:
    # One huge entry meets a tiny diagonal: eigenvalues of T would lose it in round-off of the largest.
    eigenvalues = torch.cat([torch.tensor([1e-22]), torch.logspace(-3, 2, 11)]).double()
    start = torch.cat([torch.tensor([1e10]), torch.ones(11)]).double()
    bracket = shrinkage(lanczos(lambda v: eigenvalues * v, start, 12), 1e-3)
    assert bracket.middle == pytest.approx(shrunk_exactly(eigenvalues, start, 1e-3), rel=1e-3)


def test_the_middle_has_the_geometric_mean_of_the_odds_of_the_ends() -> None:
    tridiagonal, mass = some_tridiagonal(), some_tridiagonal().mass
    bracket = shrinkage(tridiagonal, 0.05)
    odds = [value / (mass - value) for value in (bracket.lower, bracket.middle, bracket.upper)]
    assert odds[0] < odds[1] < odds[2]
    assert odds[1] == pytest.approx((odds[0] * odds[2]) ** 0.5, rel=1e-9)


def some_tridiagonal() -> Tridiagonal:
    values = torch.logspace(-4, 1, 60, dtype=torch.float64)
    start = torch.ones(60, dtype=torch.float64)
    return lanczos(lambda vector: values * vector, start, 6)


def test_the_middle_is_better_than_the_mean_of_the_ends_where_the_form_is_close_to_the_mass() -> None:
    values = torch.logspace(-4, 1, 400, dtype=torch.float64)
    start = torch.ones(400, dtype=torch.float64)
    exact = float((values / (values + 1e-4)).sum())
    assert exact > 0.85 * 400
    bracket = shrinkage(lanczos(lambda vector: values * vector, start, 12), 1e-4)
    assert bracket.lower < exact < bracket.upper
    assert abs(bracket.middle - exact) < 0.5 * abs((bracket.lower * bracket.upper) ** 0.5 - exact)
