from dataclasses import asdict, replace
from itertools import islice

from lightning_gengap.zoo.train.plans import small_zoo
from lightning_gengap.zoo.train.recipe import described, recipe_of


def test_keys_are_distinct_and_change_with_everything_that_determines_a_run():
    recipes = list(small_zoo(24))
    assert len({recipe.key for recipe in recipes}) == len(recipes)
    first = recipes[0]
    others = [
        replace(first, learning_rate=0.5),
        replace(first, pretrained=True),
        replace(first, grid="a"),
        replace(first, task=replace(first.task, noise=0.77)),
        replace(first, task=replace(first.task, imbalance=2.0)),
    ]
    assert len({recipe.key for recipe in (first, *others)}) == 6


def test_identity_is_that_of_the_committed_table():
    # The first recipe's key as it stands in small_zoo_v3.csv.gz: later fields must not move it.
    assert next(small_zoo(1)).key == "a4021d07dcfa556e"


def test_fields_at_their_defaults_are_left_out_of_the_identity():
    first = next(small_zoo(1))
    assert not {"pretrained", "grid", "group_norm"} & set(described(first))
    assert "imbalance" not in described(first)["task"]
    assert described(replace(first, grid="a"))["grid"] == "a"


def test_a_recipe_comes_back_from_its_description():
    for recipe in islice(small_zoo(3), 24):
        content = asdict(recipe)
        content["task"]["classes"] = list(content["task"]["classes"])  # as JSON gives it
        assert recipe_of(content) == recipe
