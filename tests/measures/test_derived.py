import math

import pytest

from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.derived import INGREDIENTS, KEYS, derived, with_ingredients


def discounted(train: float, copies: float) -> float:
    values = {"train_accuracy": train, "perturbation/augment_accuracy": copies}
    return derived(values)["perturbation/discounted_accuracy"]


@pytest.mark.parametrize(
    ("train", "copies", "expected"),
    [
        (1.0, 0.6, 0.6 + 0.05 * 0.4),  # much is lost: a small credit
        (0.9, 0.9, 0.9 - 0.03),  # nothing is lost: the whole discount
        (0.95, 0.9, 0.9 + 0.0025 - 0.015),
        (0.8, 0.9, 0.9 - 0.005 - 0.03),  # better on copies
    ],
)
def test_discounted_accuracy_by_hand(train: float, copies: float, expected: float):
    assert discounted(train, copies) == pytest.approx(expected)


def test_excess_by_size_by_hand():
    values = {
        "train_accuracy": 1.0,
        "perturbation/augment_accuracy": 0.6,
        "input_difficulty/patch_accuracy": 0.4,
        "train_samples": 2000 * math.e**2,
    }
    assert derived(values)["perturbation/excess_by_size"] == pytest.approx((0.62 - 0.4) * 2)
    assert derived(values | {"train_samples": 1999.0})["perturbation/excess_by_size"] == 0
    assert derived(values | {"input_difficulty/patch_accuracy": 0.9})["perturbation/excess_by_size"] == 0
    assert "perturbation/excess_by_size" not in derived(values | {"train_samples": 0.0})


def test_the_best_references_error_and_products_by_hand():
    values = {"train_accuracy": 0.9, "reference/best_accuracy": 0.7, "agreement/best": 0.8}
    found = derived(values | {"copies/least_accuracy": 0.6})
    assert found["copies/least_by_reference"] == pytest.approx(0.42)
    assert found["reference/best_error"] == pytest.approx(0.3)
    assert found["agreement/by_reference"] == pytest.approx(0.56)
    assert found["agreement/reference_by_accuracy"] == pytest.approx(0.63)


def test_what_lacks_an_ingredient_is_absent():
    assert derived({"difficulty/ridge_accuracy": 0.5, "perturbation/augment_accuracy": 0.5}) == {}
    assert set(derived({"train_accuracy": 0.5, "difficulty/ridge_accuracy": 0.2})) == {"difficulty/excess_accuracy"}


def test_every_derived_key_is_declared_with_its_ingredients():
    values = {name: 0.5 for names in INGREDIENTS.values() for name in names}
    assert set(values) <= set(MEASURED)
    assert set(derived(values)) == set(INGREDIENTS) == set(KEYS) <= set(MEASURED)
    assert all(KEYS[key].low <= value <= KEYS[key].high for key, value in derived(values).items())
    for key, names in INGREDIENTS.items():
        for name in names:
            assert key not in derived({other: value for other, value in values.items() if other != name})
    wanted = with_ingredients(["perturbation/discounted_accuracy", "train_loss"])
    assert wanted == {
        "perturbation/discounted_accuracy",
        "train_accuracy",
        "perturbation/augment_accuracy",
        "train_loss",
    }
