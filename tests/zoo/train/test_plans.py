from collections import Counter
from itertools import islice

from lightning_gengap.zoo.train.architectures import ALL_FAMILIES, FAMILIES
from lightning_gengap.zoo.train.grid_plans import COPIES, GRIDS, grid_zoo
from lightning_gengap.zoo.train.long_plans import SNAPSHOTS, long_zoo, whole_zoo
from lightning_gengap.zoo.train.plans import RUNS_PER_TASK, digits_zoo, small_zoo, wide_zoo


def test_longer_zoo_begins_like_a_shorter_one():
    assert list(small_zoo(3)) == list(islice(small_zoo(30), 3 * RUNS_PER_TASK))
    assert list(wide_zoo(3)) == list(islice(wide_zoo(20), 3 * RUNS_PER_TASK))


def test_every_small_task_has_eight_runs_in_all_its_families_and_some_tasks_are_large():
    recipes = list(small_zoo(24))
    for start in range(0, len(recipes), RUNS_PER_TASK):
        runs = recipes[start : start + RUNS_PER_TASK]
        assert len({run.task for run in runs}) == 1
        assert {run.family for run in runs} == set(FAMILIES)
    assert sum(recipe.task.train_samples >= 10_000 for recipe in recipes) == 2 * RUNS_PER_TASK


def test_every_run_has_at_least_six_snapshots_and_in_the_wide_zoo_a_third_has_twelve():
    for recipe in (*small_zoo(24), *wide_zoo(14), *long_zoo(8), *whole_zoo(), *grid_zoo()):
        assert recipe.epochs % recipe.snapshot_every == 0
        assert recipe.epochs // recipe.snapshot_every >= 6
    long = [recipe.epochs // recipe.snapshot_every >= 10 for recipe in wide_zoo(14)]
    assert sum(long) >= len(long) / 4


def test_digits_zoo_needs_no_files():
    assert {recipe.task.source for recipe in digits_zoo(6)} == {"digits"}


def test_wide_zoo_holds_what_the_small_one_lacks():
    recipes = list(wide_zoo(14))
    tasks = {recipe.task for recipe in recipes}
    assert sum(task.imbalance > 1 for task in tasks) == 6
    assert any(task.groups for task in tasks)
    assert any(task.rotated for task in tasks)
    assert any(task.coarse for task in tasks)
    assert any(task.noise >= 0.8 for task in tasks)
    assert any(len(task.classes) >= 50 for task in tasks)
    assert any(recipe.pretrained for recipe in recipes)
    assert {recipe.family for recipe in recipes} == set(ALL_FAMILIES)
    assert {"breast_cancer"} <= {task.source for task in tasks}
    assert len({recipe.key for recipe in recipes}) == len(recipes)


def test_long_runs_go_far_beyond_convergence_in_two_families_per_task():
    recipes = list(long_zoo(8))
    assert recipes[: 2 * RUNS_PER_TASK] == list(long_zoo(2))
    assert {recipe.task.source for recipe in recipes} == {"cifar10", "cifar100", "fashion_mnist", "digits"}
    assert {recipe.family for recipe in recipes} == set(ALL_FAMILIES)
    for start in range(0, len(recipes), RUNS_PER_TASK):
        runs = recipes[start : start + RUNS_PER_TASK]
        assert len({run.task for run in runs}) == 1
        assert len({run.family for run in runs}) == 2
    for recipe in recipes:
        assert recipe.epochs // recipe.snapshot_every == SNAPSHOTS
        assert 0.75 * 90_000 <= recipe.epochs * recipe.task.train_samples <= 90_000
    assert len({recipe.key for recipe in recipes}) == len(recipes)


def test_whole_data_sets_are_whole():
    recipes = list(whole_zoo())
    assert {(r.task.source, r.task.train_samples) for r in recipes} == {("cifar10", 50_000), ("fashion_mnist", 60_000)}
    assert all(len(recipe.task.classes) == 10 and recipe.task.noise == 0 for recipe in recipes)
    assert any(recipe.family == "resnet" and recipe.augment for recipe in recipes)


def test_grids_are_full_in_two_copies():
    recipes = list(grid_zoo())
    assert Counter(recipe.grid for recipe in recipes) == {grid[0]: 16 for grid in GRIDS}
    for name, _, _, _, _, axes in GRIDS:
        runs = [recipe for recipe in recipes if recipe.grid == name]
        assert len({recipe.task for recipe in runs}) == 1
        assert len(axes) == 3
        cells = Counter((*(getattr(run, axis) for axis in axes), run.seed) for run in runs)
        assert set(cells.values()) == {1}
        assert len(cells) == len(COPIES) * 2**3
