from dataclasses import asdict, replace

from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.recipe import described, recipe_of


def test_keys_change_with_everything_that_determines_a_run():
    first = planned("small", 1)[0]
    others = [
        replace(first, learning_rate=0.5),
        replace(first, pretrained=True),
        replace(first, grid="a"),
        replace(first, task=replace(first.task, noise=0.77)),
        replace(first, task=replace(first.task, imbalance=2.0)),
    ]
    assert len({recipe.key for recipe in (first, *others)}) == 6


def test_fields_at_their_defaults_are_left_out_of_the_identity():
    first = planned("small", 1)[0]
    assert not {"pretrained", "grid", "group_norm"} & set(described(first))
    assert "imbalance" not in described(first)["task"]
    assert described(replace(first, grid="a"))["grid"] == "a"


def test_a_recipe_comes_back_from_its_description():
    for recipe in planned("small", 3):
        content = asdict(recipe)
        content["task"]["classes"] = list(content["task"]["classes"])  # as JSON gives it
        assert recipe_of(content) == recipe
