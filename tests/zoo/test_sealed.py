from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.fit.fit import fitted_at, usable
from lightning_gengap.zoo.sealed import (
    FAMILIES,
    LOOKED_AT,
    SEALED_SHA256,
    TABLES,
    akin_to_sealed,
    digest,
    kept_from_fits,
    opened_once,
    refuse_sealed,
    sealed,
    sealed_families,
    sealed_sources,
)
from lightning_gengap.zoo.table import read
from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.plans import planned
from lightning_gengap.zoo.train.tables import KEEL
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table_of

ROOT = Path(__file__).parents[2]


def made(plan: str = "tables") -> list[dict[str, Any]]:
    """Ten open tasks, and two of a sealed table and of a sealed family."""
    table, family = sorted(sealed_sources() - {"trec", "fashion_mnist"})[0], sorted(sealed_families())[0]
    found = [row | {"recipe.plan": "", "recipe.source": "cifar10"} for row in rows(12)]
    for row in found:
        if row["task"] == "task10":
            row |= {"recipe.source": table, "recipe.plan": plan}
        if row["task"] == "task11":
            row |= {"recipe.family": family, "recipe.plan": plan}
    return found


def test_the_draw_is_the_one_that_the_protocol_names():
    assert digest() == SEALED_SHA256
    assert SEALED_SHA256 in (ROOT / "docs" / "protocol.md").read_text()
    assert len(sealed_sources() & set(KEEL)) == 5
    assert {"trec", "fashion_mnist"} < sealed_sources()
    assert len(sealed_families()) == 2
    assert set(TABLES) < set(KEEL)
    assert {name for kind in FAMILIES for name in kind} <= set(ARCHITECTURES)


def test_what_was_looked_at_is_neither_fitted_nor_scored():
    every = made()
    seen = next(row["run"] for row in every if row["task"] == "task11" and row["recipe.family"] in sealed_families())
    before = sealed(table_of(every))
    for row in every:
        row["run"] = LOOKED_AT[0] if row["run"] == seen else row["run"]
    table = table_of(every)
    own = table.words("run") == LOOKED_AT[0]
    assert own.any()
    assert before[own].all()
    assert not sealed(table)[own].any()
    assert kept_from_fits(table)[own].all()
    assert (sealed(table) == before)[~own].all()


def test_the_bundled_table_has_no_sealed_row_and_none_is_kept_from_its_fits():
    table = read(ROOT / "pretrained_predictors" / "small_zoo_v3.csv.gz")
    assert not sealed(table).any()
    assert not kept_from_fits(table).any()
    assert set(table.words("recipe.source")[akin_to_sealed(table)]) == {"fashion_mnist"}


def test_plans_of_the_third_zoo_have_sealed_runs_and_more_open_ones():
    for plan, fewest in (("tables", 100), ("texts", 60), ("colour", 120)):
        recipes = planned(plan)
        shut = [r for r in recipes if r.task.source in sealed_sources() or r.family in sealed_families()]
        assert len(shut) >= len(recipes) / 5
        assert len(recipes) - len(shut) >= fewest


def test_fits_leave_out_sealed_rows_and_what_is_akin_and_refuse_them_where_they_are_given():
    table = table_of([row | {"recipe.source": "fashion_mnist"} if row["task"] == "task00" else row for row in made()])
    shut = sealed(table)
    assert set(table.words("task")[shut]) == {"task10", "task11"}
    kept = usable(table, PLANTED)
    assert set(table.words("task")[~kept]) == {"task00", "task10", "task11"}
    fitted_at(table, PLANTED, kept, [0.1])
    with pytest.raises(TableError, match="got 64 sealed rows among those to fit"):
        fitted_at(table, PLANTED, np.ones(len(table), bool), [0.1])
    refuse_sealed(table, ~shut)


def test_the_sealed_part_is_opened_once_for_each_predictor(tmp_path: Path):
    table, ledger = table_of(made()), tmp_path / "opened.tsv"
    assert (opened_once(table, "first_v1", ledger) == sealed(table)).all()
    with pytest.raises(TableError, match="sealed part for first_v1: got a score before"):
        opened_once(table, "first_v1", ledger)
    opened_once(table, "second_v1", ledger)
    lines = [line.split("\t") for line in ledger.read_text().splitlines()]
    assert [line[1] for line in lines] == ["first_v1", "second_v1"]
    assert {line[3] for line in lines} == {SEALED_SHA256}
    with pytest.raises(TableError, match="got no sealed rows"):
        opened_once(table_of(made(plan="")), "third_v1", ledger)
