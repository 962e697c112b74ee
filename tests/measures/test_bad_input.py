"""Models and data that no measure was made for: finite values, an absence with a reason, or an error with a name."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap import measure
from lightning_gengap.errors import DataError, GapError, LogitsError
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.odd_networks import MODELS, small
from tests.probes import fingerprint

COUNT = 24
LIKE_SOFT_RANK = ("full_soft_rank", "tic")  # expensive, and by the same code: on few kinds
every_measure = pytest.mark.parametrize("name", MEASURES)


def taken(name: str, model: nn.Module, images: Tensor, targets: Tensor, **more: Any) -> tuple[dict[str, float], str]:
    """The measure's own values, and what was said: notes, or the error."""
    initial = {key: value + 1 for key, value in copy_state(model).items()}
    before = fingerprint(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            values = measure(model, [(images, targets)], [name], initial, **more)
            said = [str(warning.message) for warning in caught]
        except GapError as error:
            values, said = {}, [str(error)]
    assert fingerprint(model) == before
    assert all(math.isfinite(value) for value in values.values())
    assert len(said) == len(set(said))
    own = {key: value for key, value in values.items() if MEASURED[key].measure == name}
    assert own or said, "what is absent has a reason"
    return own, "\n".join(said)


def labelled(model: nn.Module) -> tuple[Tensor, Tensor]:
    return networks.images(COUNT), torch.arange(COUNT) % networks.CLASSES


def prefixes(name: str) -> set[str]:
    return {key.split("/")[0] for key, entry in MEASURED.items() if entry.measure == name} | {name}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in MEASURES
        for kind in MODELS
        if name not in LIKE_SOFT_RANK or kind in ("frozen", "complex")
    ],
)
def test_a_model_of_an_odd_kind_has_values_or_a_reason_and_is_unchanged(name: str, kind: str) -> None:
    model = networks.made(MODELS[kind])
    values, said = taken(name, model, *labelled(model))
    for line in filter(None, said.split("\n")):
        # The margins are always taken, and say themselves what they lack.
        assert any(prefix in line for prefix in prefixes(name) | {"margin/"}), f"which measure? {line}"
    if kind == "out of memory at once" and not values:
        assert "out of memory" in said


FROM_GRADIENTS = (
    "gradient_noise",
    "sharpness",
    "pac_bayes",
    "adaptive_sharpness",
    "worst_case",
    "soft_rank",
    "full_soft_rank",
    "tic",
    "diagonal_curvature",
    "kronecker_curvature",
    "hessian",
    "network_leave_one_out",
    "perturbed_margin",
    "kernel_difficulty",
)


@pytest.mark.parametrize("kind", ["no_grad", "no_grad outside of training", "detached", "inference mode"])
@pytest.mark.parametrize("name", FROM_GRADIENTS)
def test_without_gradients_what_takes_them_is_absent_not_zero(name: str, kind: str) -> None:
    model = networks.made(MODELS[kind])
    values, said = taken(name, model, *labelled(model))
    assert values == {}
    causes = (
        "no gradient of the logits",
        "depend on no parameter",
        "does not require grad",
        "gradients",
        "inference tensor",
    )
    assert any(cause in said for cause in causes), said


@pytest.mark.parametrize("name", ["margin", "fit"])
def test_without_gradients_what_takes_none_is_as_with_them(name: str) -> None:
    model = networks.made(MODELS["detached"])
    (values, _), (plain, _) = (taken(name, part, *labelled(model)) for part in (model, model.body))
    assert values.items() <= plain.items()
    assert values, "the output margins and the logits need no gradient"


@every_measure
def test_fewer_samples_than_classes(name: str) -> None:
    taken(name, networks.made(small), networks.images(3), torch.tensor([0, 1, 3]))


@every_measure
def test_no_weight_decay(name: str) -> None:
    model = networks.made(small)
    values, _ = taken(name, model, *labelled(model), weight_decay=0.0)
    assert values.get("curvature/lambda_assumed", 1.0) == 1.0


@every_measure
def test_a_single_class_and_infinite_logits_are_refused(name: str) -> None:
    model = networks.made(small)
    images, targets = labelled(model)
    with pytest.raises(DataError, match="all of class 0; expected two classes or more"):
        measure(model, [(images, 0 * targets)], [name])
    with torch.no_grad():
        model[-1].bias.fill_(torch.inf)
    with pytest.raises(LogitsError, match="with NaN or infinity; expected finite logits"):
        measure(model, [(images, targets)], [name])
