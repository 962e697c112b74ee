from dataclasses import replace
from itertools import islice

from lightning_gengap.zoo.architectures import FAMILIES
from lightning_gengap.zoo.recipe import RUNS_PER_TASK, digits_zoo, small_zoo


def test_longer_zoo_begins_like_a_shorter_one():
    assert list(small_zoo(3)) == list(islice(small_zoo(30), 3 * RUNS_PER_TASK))


def test_keys_are_distinct_and_change_with_everything_that_determines_a_run():
    recipes = list(small_zoo(24))
    assert len({recipe.key for recipe in recipes}) == len(recipes)
    assert replace(recipes[0], learning_rate=0.5).key != recipes[0].key
    assert replace(recipes[0], task=replace(recipes[0].task, noise=0.77)).key != recipes[0].key


def test_every_task_has_eight_runs_in_all_families_and_some_tasks_are_large():
    recipes = list(small_zoo(24))
    for start in range(0, len(recipes), RUNS_PER_TASK):
        runs = recipes[start : start + RUNS_PER_TASK]
        assert len({run.task for run in runs}) == 1
        assert {run.family for run in runs} == set(FAMILIES)
    assert sum(recipe.task.train_samples >= 10_000 for recipe in recipes) == 2 * RUNS_PER_TASK


def test_every_run_has_at_least_six_snapshots():
    for recipe in small_zoo(24):
        assert recipe.epochs % recipe.snapshot_every == 0
        assert recipe.epochs // recipe.snapshot_every == 6


def test_digits_zoo_needs_no_files():
    assert {recipe.task.source for recipe in digits_zoo(6)} == {"digits"}
