import hashlib
from collections import Counter

import pytest

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.plans import PLANS, planned, tables, wide
from lightning_gengap.zoo.train.plans.grids import COPIES, GRIDS
from lightning_gengap.zoo.train.plans.long import SNAPSHOTS
from lightning_gengap.zoo.train.plans.small import RUNS_PER_TASK, TASKS
from lightning_gengap.zoo.train.recipe import Recipe

# By plan: recipes, and the hash of their keys in turn. The bundled table has these runs: no later change may move them.
RECORDED = {
    "small": (400, "349a3e98a5cc8980"),
    "digits": (400, "b3f571ead3dd9045"),
    "wide": (400, "7a32aa1e5e032212"),
    "long": (400, "27d27881fc140506"),
    "whole": (16, "99711402ef8f436a"),
    "grids": (96, "6af33d47dcdac663"),
    "tables": (192, "1670901f7ddeebcd"),
    "texts": (128, "d062f53b7a56d481"),
    "colour": (200, "d5a87a7c1e9d9116"),
    "large_colour": (30, "28929a28fff0befc"),
    "small_images": (66, "3b7ce9942c19015c"),
}
RUNS = {name: RUNS_PER_TASK for name in PLANS} | {
    "grids": 16,
    "tables": 4,
    "texts": 4,
    "colour": 5,
    "large_colour": 5,
    "small_images": 3,
}
THIRD = ("tables", "texts", "colour", "large_colour")
FAMILIES = {"cnn", "vgg", "resnet", "mlp", "vit", "mobilenet"}  # of the committed runs


def test_a_kind_that_is_added_to_the_wide_plan_moves_no_recipe_before_it(monkeypatch: pytest.MonkeyPatch):
    before = planned("wide")
    monkeypatch.setattr(wide, "_ADDED", ((wide._rotated, ("mlp",), {}),))
    longer = planned("wide", TASKS + 1)
    assert longer[: len(before)] == before
    assert {recipe.family for recipe in longer[len(before) :]} == {"mlp"}


def by_task(recipes: list[Recipe]) -> list[list[Recipe]]:
    tasks = [recipes[start : start + RUNS_PER_TASK] for start in range(0, len(recipes), RUNS_PER_TASK)]
    assert all(len({run.task for run in runs}) == 1 for runs in tasks)
    return tasks


@pytest.mark.parametrize("name", PLANS)
def test_plans_have_the_recipes_of_the_committed_runs_all_distinct(name: str):
    keys = [recipe.key for recipe in planned(name)]
    assert (len(keys), hashlib.sha256("".join(keys).encode()).hexdigest()[:16]) == RECORDED[name]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", PLANS)
def test_a_longer_plan_begins_like_a_shorter_one(name: str):
    shorter = planned(name, 2)
    assert len(shorter) == 2 * RUNS[name]
    assert shorter == planned(name)[: len(shorter)]


def test_every_small_task_has_eight_runs_in_all_its_families_and_some_tasks_are_large():
    recipes = planned("small", 24)
    assert all({run.family for run in runs} == {"cnn", "vgg", "resnet", "mlp", "vit"} for runs in by_task(recipes))
    assert sum(recipe.task.train_samples >= 10_000 for recipe in recipes) == 2 * RUNS_PER_TASK


@pytest.mark.parametrize(("name", "tasks"), [("small", 24), ("wide", 14), ("long", 8), ("whole", 2), ("grids", 6)])
def test_every_run_has_at_least_six_snapshots_and_in_the_wide_plan_a_third_has_twelve(name: str, tasks: int):
    recipes = planned(name, tasks)
    assert all(recipe.epochs % recipe.snapshot_every == 0 for recipe in recipes)
    snapshots = [recipe.epochs // recipe.snapshot_every for recipe in recipes]
    assert min(snapshots) >= 6
    if name == "wide":
        assert sum(count >= 10 for count in snapshots) >= len(snapshots) / 4


def test_the_digits_plan_needs_no_files():
    assert {recipe.task.source for recipe in planned("digits", 6)} == {"digits"}


def test_the_wide_plan_holds_what_the_small_one_lacks():
    recipes = planned("wide", 14)
    tasks = {recipe.task for recipe in recipes}
    assert sum(task.imbalance > 1 for task in tasks) == 6
    assert any(task.groups for task in tasks)
    assert any(task.rotated for task in tasks)
    assert any(task.coarse for task in tasks)
    assert any(task.noise >= 0.8 for task in tasks)
    assert any(len(task.classes) >= 50 for task in tasks)
    assert any(recipe.pretrained for recipe in recipes)
    assert {recipe.family for recipe in recipes} == FAMILIES <= set(ARCHITECTURES)
    assert {"breast_cancer"} <= {task.source for task in tasks}


def test_long_runs_go_far_beyond_convergence_in_two_families_per_task():
    recipes = planned("long", 8)
    assert {recipe.task.source for recipe in recipes} == {"cifar10", "cifar100", "fashion_mnist", "digits"}
    assert {recipe.family for recipe in recipes} == FAMILIES
    assert all(len({run.family for run in runs}) == 2 for runs in by_task(recipes))
    for recipe in recipes:
        assert recipe.epochs // recipe.snapshot_every == SNAPSHOTS
        assert 0.75 * 90_000 <= recipe.epochs * recipe.task.train_samples <= 90_000


def test_whole_data_sets_are_whole():
    recipes = planned("whole")
    assert {(r.task.source, r.task.train_samples) for r in recipes} == {("cifar10", 50_000), ("fashion_mnist", 60_000)}
    assert all(len(recipe.task.classes) == 10 and recipe.task.noise == 0 for recipe in recipes)
    assert any(recipe.family == "resnet" and recipe.augment for recipe in recipes)


def test_grids_are_full_in_two_copies():
    recipes = planned("grids")
    assert Counter(recipe.grid for recipe in recipes) == {grid.name: 16 for grid in GRIDS}
    for grid in GRIDS:
        runs = [recipe for recipe in recipes if recipe.grid == grid.name]
        assert len({recipe.task for recipe in runs}) == 1
        assert len(grid.axes) == 3
        cells = Counter((*(getattr(run, axis) for axis in grid.axes), run.seed) for run in runs)
        assert set(cells.values()) == {1}
        assert len(cells) == len(COPIES) * 2**3


@pytest.mark.parametrize("name", THIRD)
def test_runs_of_the_third_zoo_have_sixteen_snapshots_a_plan_and_families_of_their_inputs(name: str):
    kind = {"tables": "vectors", "texts": "texts"}.get(name, "images")
    for recipe in planned(name):
        assert recipe.epochs == 16 * recipe.snapshot_every
        assert recipe.plan == name
        assert ARCHITECTURES[recipe.family].of == kind
        assert not (recipe.mixup and name == "texts")
        assert recipe.task.test_samples == 4000


@pytest.mark.parametrize(("name", "sources"), [("tables", 16), ("texts", 4), ("colour", 3)])
def test_the_third_zoo_is_balanced_wherever_it_is_cut(name: str, sources: int):
    recipes = planned(name)
    families = {recipe.family for recipe in recipes}
    for end in range(len(recipes) // 4, len(recipes), 7):
        begun = recipes[:end]
        assert len({recipe.task.source for recipe in begun}) >= min(sources, end // RUNS[name])
        counts = Counter(recipe.family for recipe in begun)
        assert set(counts) == families
        assert max(counts.values()) <= 1.3 * min(counts.values())
        assert 0.12 < sum(recipe.task.noise > 0 for recipe in begun) / end < 0.45
        plain = sum(not (r.dropout or r.mixup or r.label_smoothing or r.weight_decay >= 0.3) for r in begun)
        assert 0.4 < plain / end < 0.9


def test_every_table_has_clean_and_noisy_tasks_and_the_whole_table_first():
    recipes = planned("tables")
    noisy = Counter(recipe.task.source for recipe in recipes if recipe.task.noise)
    assert set(noisy.values()) == {4}
    assert len(noisy) == 16
    for recipe in recipes[: 16 * RUNS["tables"]]:
        assert recipe.task.train_samples == min(tables.SOURCES[recipe.task.source][1], 4000)


def test_colour_images_come_augmented_and_not_mixed_smoothed_pretrained_and_in_all_sizes():
    recipes = planned("colour")
    sizes = {recipe.task.train_samples for recipe in recipes}
    assert (min(sizes), max(sizes)) == (2000, 10_000)
    assert 0.35 < sum(recipe.augment for recipe in recipes) / len(recipes) < 0.65
    assert sum(recipe.mixup > 0 for recipe in recipes) >= 10
    assert sum(recipe.label_smoothing > 0 for recipe in recipes) >= 10
    assert sum(recipe.pretrained for recipe in recipes) >= 10
    assert {(r.task.source, r.task.side) for r in recipes} == {("cifar10", 32), ("cifar100", 32), ("fashion_mnist", 28)}
