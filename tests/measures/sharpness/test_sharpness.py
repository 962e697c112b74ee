from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from lightning_gengap.measures.sharpness.pac_bayes import pac_bayes
from lightning_gengap.measures.sharpness.sharpness import divergence, sharpness
from lightning_gengap.measures.sharpness.weight_noise import (
    absolute,
    affine,
    drop_under_noise,
    find_level,
    fit_at,
    fit_under_noise,
    magnitude_aware,
    noisy,
    proportional,
)
from lightning_gengap.measures.sharpness.worst_case import ascent, keskar_box, worst_case
from lightning_gengap.network.folding import folded
from lightning_gengap.network.probe import Probe, copy_state
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import probing

Values = dict[str, float]
SAMPLES = 400


def separate(rivals: Tensor | None = None) -> tuple[nn.Linear, Tensor, Tensor]:
    """One weight pair per sample: the true class's is 1, the other's 0 or given, so that margins fail one by one."""
    targets = torch.arange(SAMPLES) % 2
    model = nn.Linear(SAMPLES, 2, bias=False).double()
    with torch.no_grad():
        rows = torch.arange(SAMPLES)
        model.weight.zero_()
        model.weight[targets, rows] = 1.0
        if rivals is not None:
            model.weight[1 - targets, rows] = rivals.double()
    return model, torch.eye(SAMPLES).double(), targets


def trained(factory: Callable[[], nn.Module], count: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and targets of four equal classes that it nearly always predicts."""
    model, images = networks.made(factory).double().eval(), networks.images(count).double()
    with torch.no_grad():
        features = model[:-1](images)
        targets = torch.arange(count) % networks.CLASSES
        goal = 4 * torch.eye(networks.CLASSES).double()[targets]
        padded = torch.cat([features, torch.ones(count, 1).double()], dim=1)
        solution = torch.linalg.lstsq(padded, goal, driver="gelsd").solution
        model[-1].weight.copy_(solution[:-1].T)
        model[-1].bias.copy_(solution[-1])
    return model, images, targets


def wide() -> nn.Sequential:
    """ReLU network and batch norms with enough features to fit forty samples."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 48), nn.ReLU(), nn.Linear(48, 4),
    )  # fmt: skip


def measured(measure: Callable[[Probe], Values], task: tuple[nn.Module, Tensor, Tensor], **more: object) -> Values:
    with probing(*task, **{"train_samples": 1000, **more}) as probe:
        return measure(probe)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.5])
def test_the_drawn_noise_has_the_standard_deviation_it_is_asked_for(sigma: float) -> None:
    weights = {"zero": torch.zeros(100_000), "two": torch.full((100_000,), -2.0).double()}
    expected = {
        absolute: (sigma, sigma),
        magnitude_aware: (1e-3, math.sqrt(4 * sigma**2 + 1e-6)),
        affine: (sigma, 21 * sigma),
        proportional: (0.0, 2 * sigma),
    }
    for noise, deviations in expected.items():
        copies = noisy(weights, noise(sigma), seed=3)
        for (name, weight), deviation in zip(weights.items(), deviations, strict=True):
            drawn = copies[name] - weight
            assert float(drawn.std()) == pytest.approx(deviation, rel=0.01)
            assert abs(float(drawn.mean())) <= 4 * deviation / math.sqrt(100_000)


def test_draws_are_the_same_at_every_level() -> None:
    weights = {"a": torch.randn(50), "b": torch.randn(50)}
    one, two, other = (
        {name: (copy - weights[name]) / s for name, copy in noisy(weights, absolute(s), seed).items()}
        for s, seed in ((0.1, 1), (0.2, 1), (0.1, 2))
    )
    for name in weights:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(one[name], other[name], atol=0.1)
    assert not torch.allclose(one["a"], one["b"], atol=0.1)


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


@pytest.mark.parametrize(("drop", "found"), [(0.0, 2.0), (0.5, 0.0)])
def test_bisection_ends_at_the_end_of_its_range(drop: float, found: float) -> None:
    level = find_level(lambda sigma: drop)
    assert level.drop == drop
    assert level.value == pytest.approx(found, abs=1e-3)


def test_sigma_is_the_standard_deviation_that_costs_a_tenth() -> None:
    # Sample i is right while 1 + sigma (z_1 - z_2) > 0, respectively 1 + sigma' z > 0: accuracies are normal integrals.
    values = measured(pac_bayes, separate(), train_samples=SAMPLES)
    normal = NormalDist()
    slack = 4 * math.sqrt(0.09 / 10 / SAMPLES)
    assert values["pac_bayes/sigma_drop"] == pytest.approx(0.1, abs=0.01)
    assert 1 - normal.cdf(1 / (values["pac_bayes/sigma"] * math.sqrt(2))) == pytest.approx(0.1, abs=0.01 + slack)
    assert 1 - normal.cdf(1 / values["pac_bayes/magnitude_sigma"]) == pytest.approx(0.1, abs=0.01 + slack)


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


def test_a_warm_start_saves_trials_and_stays_within_the_tolerance() -> None:
    memory: dict[str, Tensor] = {}
    cold = measured(pac_bayes, separate(), memory=memory)
    assert set(memory) == {"pac_bayes/sigma", "pac_bayes/magnitude_sigma"}
    assert measured(pac_bayes, separate(), memory=memory) == cold
    memory["pac_bayes/sigma"] *= 3
    again = measured(pac_bayes, separate(), memory=memory)
    assert again["pac_bayes/sigma"] == pytest.approx(cold["pac_bayes/sigma"], rel=0.15)


def test_the_rows_are_their_formulas() -> None:
    model, images, targets = trained(wide)
    initial = networks.made(wide, seed=5).double()
    with probing(model, images, targets, train_samples=1000, initial_state=copy_state(initial)) as probe:
        values = pac_bayes(probe)
        assert probe.notes == []
        network = probe.cached(folded)
    s = values["pac_bayes/sigma"]
    square = sum(float(network.state[n].square().sum()) for n in ("0.weight", "4.weight", "6.weight"))
    assert values["pac_bayes/origin"] == pytest.approx(square / (4 * s * s) + math.log(1000 / s) + 10, rel=1e-9)
    assert values["pac_bayes/flatness"] == pytest.approx(1 / s**2)
    assert values["pac_bayes/magnitude_flatness"] == pytest.approx(values["pac_bayes/magnitude_sigma"] ** -2)
    moved = all_moved = 0.0
    for (weight, bias), (weight_0, bias_0) in zip(folded_by_hand(model), folded_by_hand(initial), strict=True):
        moved += float((weight - weight_0).square().sum())
        all_moved += float((weight - weight_0).square().sum() + (bias - bias_0).square().sum())
    assert values["pac_bayes/initial"] == pytest.approx(moved / (4 * s * s) + math.log(1000 / s) + 10, rel=1e-9)
    error = 1 - (fit_accuracy(model, images, targets) - values["pac_bayes/sigma_drop"])
    bound = error + 4 * math.sqrt((all_moved / (2 * s * s) + math.log(2 * 1000 / 0.05)) / 1000)
    assert values["pac_bayes/bound"] == pytest.approx(bound, rel=1e-9)


@torch.no_grad()
def folded_by_hand(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    bias = model[1].bias + scale * (model[0].bias - model[1].running_mean)
    dense = [(model[i].weight.detach(), model[i].bias.detach()) for i in (4, 6)]
    return [(model[0].weight * scale[:, None, None, None], bias), *dense]


def fit_accuracy(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    return float((model(images).argmax(1) == targets).double().mean())


def test_divergence_is_that_of_normal_distributions() -> None:
    w, c = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).double()
    deviation = affine(0.01)(w)
    expected = kl_divergence(Normal(w, deviation), Normal(c, deviation)).sum()
    assert divergence({"w": w}, {"w": c}, affine(0.01)) == pytest.approx(float(expected), rel=1e-9)
    # From zero, purely proportional noise has a constant divergence, whatever the weights.
    assert divergence({"w": w}, {"w": torch.zeros(())}, proportional(0.1)) == pytest.approx(30 / (2 * 0.1**2))


def test_expected_sharpness_of_a_quadratic_is_half_the_weighted_trace() -> None:
    # At zero weights, with both labels for one input, the loss is log(2 cosh(u / 2)) of the logits' difference u.
    inputs = torch.tensor([[1.0, 0.5, -0.2], [1.0, 0.5, -0.2]]).double()
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    sigma, count = 0.1, 2000
    with probing(model, inputs, torch.tensor([0, 1])) as probe:
        network = probe.cached(folded)
        rise = fit_under_noise(probe, network, absolute(sigma), range(count)).loss - fit_at(probe).loss
    trace = 2 * 0.25 * float(inputs[0].square().sum())  # p (1 - p) |x|^2, once per class
    # The rise is u^2 / 8 with u normal: its standard deviation is sqrt(2) times its mean.
    assert rise == pytest.approx(sigma**2 * trace / 2, rel=4 * math.sqrt(2 / count) + 0.01)


def test_sharpness_is_repeatable_and_leaves_the_model_alone() -> None:
    model, images, targets = trained(wide)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    values = [
        {**measured(sharpness, (model, images, targets), chunk=chunk, initial_state=before),
         **measured(worst_case, (model, images, targets), chunk=chunk)}
        for chunk in (None, 7)
    ]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    assert values[0]["sharpness/kl_initial_0.001"] == 0
    assert values[0]["sharpness/expected_0.01"] > values[0]["sharpness/expected_0.001"]
    assert values[0]["sharpness/kl_0.01"] < values[0]["sharpness/kl_0.001"]


def chosen(values: Values, *parts: str) -> Values:
    return {key: value for key, value in values.items() if any(part in key for part in parts)}


def test_invariances() -> None:
    task = trained(wide)
    model = task[0]
    drops, losses = ("0.05_drop", "0.1_drop", "0.2_drop"), ("adaptive",)
    before, flat = measured(sharpness, task), measured(pac_bayes, task)
    measure_oracles.rescale_batch_norm(model[0], model[1], 3.0)
    assert measured(sharpness, task) == pytest.approx(before, rel=1e-6)
    assert measured(pac_bayes, task) == pytest.approx(flat, rel=1e-6)
    measure_oracles.rescale_relu(model[4], model[6], 2.0)
    rescaled = measured(sharpness, task)
    assert chosen(rescaled, *losses) == pytest.approx(chosen(before, *losses), rel=1e-6)
    for name in ("sharpness/expected_0.01", "sharpness/kl_0.01"):  # absolute noise is no measure of the function
        assert rescaled[name] != pytest.approx(before[name], rel=0.05)
    assert measured(pac_bayes, task)["pac_bayes/flatness"] != pytest.approx(flat["pac_bayes/flatness"], rel=0.05)
    assert chosen(measured(pac_bayes, task), "magnitude") == pytest.approx(chosen(flat, "magnitude"), rel=0.05)
    measure_oracles.scale_last_layer(model[6], 5.0)
    assert chosen(measured(sharpness, task), *drops) == pytest.approx(chosen(before, *drops), rel=1e-6)
    assert chosen(measured(pac_bayes, task), "magnitude") == pytest.approx(chosen(flat, "magnitude"), rel=0.05)


def test_the_worst_case_of_a_linear_model_is_at_a_corner_of_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 3).double()
    inputs, targets = torch.randn(9, 2, generator=generator).double(), torch.arange(9) % 3
    epsilon = 0.01
    weights = {name: value.detach() for name, value in model.named_parameters()}
    flat = torch.cat([value.flatten() for value in weights.values()])
    worst = -math.inf
    for signs in itertools.product((-1.0, 1.0), repeat=9):
        moved = flat + epsilon * torch.tensor(signs) * (flat.abs() + 1)
        logits = inputs @ moved[:6].reshape(3, 2).T + moved[6:]
        worst = max(worst, float(nn.functional.cross_entropy(logits, targets)))
    with probing(model, inputs, targets, chunk=4) as probe:
        found = max(fit.loss for fit in ascent(probe, probe.cached(folded), keskar_box(epsilon)))
    assert found == pytest.approx(worst, rel=1e-9)


def test_worst_case_sharpness_is_keskars_ratio() -> None:
    task = trained(wide)
    with probing(*task) as probe:
        values = worst_case(probe)
        clean, worst = (
            fit_at(probe).loss,
            max(fit.loss for fit in ascent(probe, probe.cached(folded), keskar_box(1e-3))),
        )
    assert worst > clean
    assert values["worst_case/sharpness"] == pytest.approx(100 * (worst - clean) / (1 + clean), rel=1e-9)
    before = dict(values)
    measure_oracles.rescale_batch_norm(task[0][0], task[0][1], 3.0)
    assert measured(worst_case, task) == pytest.approx(before, rel=1e-6)


def test_the_tolerated_box_flips_a_tenth_of_the_margins() -> None:
    # Weights 1 and b >= 0 per sample: the worst of a proportional box flips it when 1 - a < b (1 + a).
    rivals = torch.linspace(0.0, 0.8, SAMPLES)
    values = measured(worst_case, separate(rivals))
    flips = ((1 - rivals) / (1 + rivals) < values["worst_case/alpha"]).double().mean()
    assert values["worst_case/alpha_drop"] == pytest.approx(float(flips), abs=1e-9)
    assert values["worst_case/alpha_drop"] == pytest.approx(0.1, abs=0.01)
    assert values["worst_case/flatness"] == pytest.approx(values["worst_case/alpha"] ** -2)


def test_what_is_undefined_is_absent_with_one_note() -> None:
    model, images, targets = separate()
    with probing(model, images, targets.roll(1), train_samples=10) as probe:
        assert pac_bayes(probe) == {}
        assert list(worst_case(probe)) == ["worst_case/sharpness", "worst_case/sharpness_0.0005"]
        assert [note.split(" is absent")[0] for note in probe.notes] == ["pac_bayes/*", "worst_case/alpha"]
    with probing(model, images, targets) as probe:
        assert set(chosen(pac_bayes(probe), "origin", "initial", "bound")) == set()
        assert len(probe.notes) == 1
    with probing(model, images, targets, train_samples=10) as probe:
        assert set(chosen(pac_bayes(probe), "origin", "initial", "bound")) == {"pac_bayes/origin"}
        assert len(probe.notes) == 1
    robust = nn.Linear(1, 2).double()  # its inputs are zero and its bias too large for any noise in reach
    with torch.no_grad():
        robust.bias.copy_(torch.tensor([1e3, 0.0]))
    mixed = torch.cat([torch.zeros(60, 1), torch.full((40, 1), 1e9)]).double()
    with torch.no_grad():
        robust.weight.copy_(torch.tensor([[0.0], [1e6]]))
    with probing(robust, mixed, torch.cat([torch.zeros(60), torch.ones(40)]).long(), train_samples=10) as probe:
        values = pac_bayes(probe)
        assert values["pac_bayes/sigma_drop"] == 0
        assert values["pac_bayes/sigma"] == pytest.approx(2, rel=1e-3)
        assert values["pac_bayes/sigma_censored"] == 1
        assert "pac_bayes/flatness" not in values
        assert any(note.startswith("pac_bayes/flatness is absent") for note in probe.notes)


@pytest.mark.parametrize("measure", [sharpness, pac_bayes, worst_case])
def test_a_batch_norm_that_cannot_be_folded_is_said(measure: Callable[[Probe], Values]) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    with probing(model, networks.images(8), torch.arange(8) % 4) as probe:
        assert measure(probe) == {}
        assert len(probe.notes) == 1
        assert "does not directly follow" in probe.notes[0]


@pytest.mark.parametrize("factory", [networks.VisionTransformer, networks.Recurrent, networks.ResNet])
def test_other_architectures_have_finite_values(factory: Callable[[], nn.Module]) -> None:
    model, images = networks.made(factory), networks.images(12)
    with probing(model, images, torch.arange(12) % 4) as probe:
        values = sharpness(probe)
    assert len(values) == 15
    assert all(map(math.isfinite, values.values()))
