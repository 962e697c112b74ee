import numpy as np
import pytest

from lightning_gengap.zoo.splits import by_group, by_run, by_size, by_task, development, locked_parts, splits
from lightning_gengap.zoo.table import Table
from tests.zoo.tables import rows, table_of
from tests.zoo.tables import table as planted


@pytest.fixture(scope="module")
def table() -> Table:
    return planted()


@pytest.mark.parametrize("name", ["by run", "by task", "leave one family out", "leave one data set out"])
def test_every_row_is_held_out_once_and_never_fitted_then(table: Table, name: str):
    held_out = np.zeros(len(table), int)
    for _, fitted, held in splits(table)[name]:
        assert not (fitted & held).any()
        held_out += held
    assert (held_out == 1).all()


def test_snapshots_of_a_run_stay_together(table: Table):
    runs = table.words("run")
    for _, fitted, held in by_run(table):
        assert not set(runs[fitted]) & set(runs[held])


def test_a_held_out_task_takes_its_kin_along(table: Table):
    classes = [set(cell.split()) for cell in table.columns["recipe.classes"]]
    sources = table.columns["recipe.source"]
    checked = 0
    for _, fitted, held in by_task(table):
        for i in np.flatnonzero(held)[::16]:
            for j in np.flatnonzero(fitted)[::16]:
                if sources[i] == sources[j]:
                    assert 2 * len(classes[i] & classes[j]) <= len(classes[i])
                    checked += 1
    assert checked > 0


def test_cifar_siblings_leave_together(table: Table):
    names = [name for name, _, _ in by_group(table, "recipe.source", {"cifar10": "cifar", "cifar100": "cifar"})]
    assert names == ["cifar", "digits", "fashion_mnist"]


def test_large_sizes_are_five_times_beyond_all_that_is_fitted():
    sizes = [300, 3200, 3300, 10_000, 16_000, 50_000, 60_000]
    made = [
        row | {"run": f"of {size}", "recipe.train_samples": size} for size, row in zip(sizes, rows(1), strict=False)
    ]
    found = {name: (fitted, held) for name, fitted, held in by_size(table_of(made))}
    samples = np.array(sizes)
    assert list(found) == ["16000 images and more", "50000 images and more"]
    for least, (fitted, held) in zip((16_000, 50_000), found.values(), strict=True):
        assert samples[held].tolist() == [size for size in sizes if size >= least]
        assert samples[fitted].tolist() == [size for size in sizes if 5 * size <= least]


def test_development_sees_nothing_of_the_locked_part(table: Table):
    free = development(table)
    assert free.any()
    for part in locked_parts(table).values():
        assert part.any()
        assert not (part & free).any()
