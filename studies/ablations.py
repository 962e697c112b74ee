"""What each group of measures is worth where it was measured: beside the trivial features and the specification's.

    python studies/ablations.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from contests import Splits, Study, contest, contest_table, finite, study_of, study_parser, union, without
from measure_groups import GROUPS, Group, groups_of, scarce

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.evaluate.abilities import serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from lightning_gengap.zoo.fit.specifications import TRIVIAL
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import FOLDS, Split, by_task
from lightning_gengap.zoo.table import Floats

FEWEST_TASKS, FEWEST_FAMILIES = 5, 3
_COLUMNS = {"by task": "task", "leave one family out": "recipe.family", "leave one source out": "recipe.source"}


def groups(study: Study) -> dict[str, Any]:
    """Each group added to the trivial features and to the specification, and taken from the specification and from all.

    Added: on the rows that have the group; where there are fewer than 20 tasks, each is held out by itself, and the
    ridge strength of scarce groups is chosen by task. Taken from all: on the rows that have every group which at least
    half of the rows have.
    """
    table = study.setting.table
    chosen = groups_of(table, study.allowed)
    singly: Sequence[Split] = []
    listed: dict[str, Any] = {"absent": [name for name in GROUPS if name not in chosen], "added": {}}
    for name, group in chosen.items():
        tasks = table.count("task", group.rows)
        if FEWEST_TASKS <= tasks < 2 * FOLDS and not singly:
            singly = by_task(table, table.count("task", np.ones(len(table), bool)))
        own_splits = {**study.split_of, "by task": singly} if tasks < 2 * FOLDS else study.split_of
        listed["added"][name] = _added(study, own_splits, group)
    listed["taken"] = _taken(study, chosen)
    return listed


def _added(study: Study, split_of: Splits, group: Group) -> dict[str, Any]:
    table, main = study.setting.table, study.setting.specification
    contenders = {
        "trivial": TRIVIAL,
        "trivial + group": replace(TRIVIAL, features=union(TRIVIAL.features, group.terms)),
        main.name: main,
        f"{main.name} + group": replace(main, features=union(main.features, group.terms)),
    }
    # Where the test accuracy is fitted, train accuracy is no free feature and cannot be taken.
    given = main.features[:1] if main.test_accuracy else ()
    left = (*given, *without(main.features[len(given) :], group.terms))
    if len(given) < len(left) < len(main.features):
        contenders[f"{main.name} - group"] = _without(main, left, group.terms)
    counts = {name: table.count(column, group.rows) for name, column in _COLUMNS.items()}
    listed: dict[str, Any] = {
        "keys": [term.name for term in group.terms],
        "dropped": list(group.dropped),
        "scarce": group.scarce,
        "rows": int(group.rows.sum()),
        "runs": table.count("run", group.rows),
        "tasks": counts["by task"],
        "families": counts["leave one family out"],
        "splits": {},
    }
    for name in _COLUMNS:
        if counts["by task"] < FEWEST_TASKS:
            listed["splits"][name] = {"too few": "tasks", "count": counts["by task"]}
        elif name != "by task" and counts[name] < FEWEST_FAMILIES:
            kind = "families" if name == "leave one family out" else "sources"
            listed["splits"][name] = {"too few": kind, "count": counts[name]}
        else:
            listed["splits"][name] = _scored(study, split_of[name], group, contenders)
    return listed


def _scored(
    study: Study, split: Sequence[Split], group: Group, contenders: Mapping[str, Specification]
) -> dict[str, Any]:
    """Errors, taus within tasks, and what each contender gains over the same features without the group."""
    table, draws, main = study.setting.table, study.setting.resampling, study.setting.specification.name
    fewest = FEWEST_TASKS - 1  # so that one of five can be held out
    gaps: dict[str, Floats] = {}
    for name, contender in contenders.items():
        folds = table.codes("task") if group.scarce and not contender.balanced else None
        rows, gaps[name] = hold_out_points(table, contender, split, group.rows, folds, fewest)
    tasks = len(np.unique(table.codes("task")[rows]))
    if tasks < FEWEST_TASKS:
        return {"too few": "tasks that leave enough to fit on", "count": tasks}
    actual, train = table.numbers("gap.accuracy")[rows], table.numbers("measure.train_accuracy")[rows]
    test, runs = table.numbers("gap.test_accuracy")[rows], table.words("run")[rows]
    parts = serving(table, rows, np.ones(len(rows), bool))
    maes = {name: draws.mean(100 * np.abs(gap - actual), rows) for name, gap in gaps.items()}
    result: dict[str, Any] = {"rows": len(rows), "tasks": tasks, "ranked tasks": len(parts)}
    result |= _gains("mae", maes, main, -1)
    if len(parts) >= FEWEST_TASKS:
        taus = {name: within(train - gap, test, runs, parts) for name, gap in gaps.items()}
        result |= _gains("tau", taus, main, 1)
    return result


def _gains(kind: str, scores: Mapping[str, Score], main: str, sign: int) -> dict[str, Any]:
    gains = {}
    for name, score in scores.items():
        if name not in ("trivial", main):
            difference = score.minus(scores["trivial" if name.startswith("trivial +") else main])
            gains[name] = Score(sign * difference.value, sign * difference.draws).listed()
    return {kind: {name: score.listed() for name, score in scores.items()}, f"{kind} gain": gains}


def _taken(study: Study, chosen: Mapping[str, Group]) -> dict[str, Any]:
    table, main, allowed = study.setting.table, study.setting.specification, study.allowed
    common = {name: group.terms for name, group in chosen.items() if not scarce(group.rows, allowed)}
    rows = np.logical_and.reduce([allowed, *(finite(table, terms) for terms in common.values())])
    if not common or not rows.any():
        return {}
    whole = union(TRIVIAL.features, *common.values())
    contenders = {"all": replace(main, features=whole)}
    for name, terms in common.items():
        contenders[f"all - {name}"] = _without(main, without(whole, without(terms, TRIVIAL.features)), terms)
    return contest(study, rows, contenders, "all")


def _without(main: Specification, left: tuple[Term, ...], taken: tuple[Term, ...]) -> Specification:
    """With the features that are left, and without the components that read what is taken."""
    gone = {term.name for term in taken}
    return replace(main, features=left, components=tuple(c for c in main.components if not gone.intersection(c.needs)))


def groups_section(groups: Mapping[str, Any], main: str) -> str:
    """What each group adds to the trivial features and to the specification, where it was measured."""
    absent = f" Not measured in these rows: {', '.join(groups['absent'])}." if groups["absent"] else ""
    parts = [
        "Every group on the rows where it was measured: accuracy points of error that it saves, and what it adds to "
        "Kendall's tau of predicted and actual test accuracy within tasks, over the same features without it, fitted "
        "and scored on the same rows. Scarce groups are those on less than half of the rows; "
        f"their ridge strength is chosen by task, and fewer than 20 tasks are held out one by one.{absent}"
    ]
    rows = []
    for name, group in groups["added"].items():
        dropped = f"; not scored: {', '.join(group['dropped'])}" if group["dropped"] else ""
        counts = [str(group[count]) for count in ("rows", "runs", "tasks", "families")]
        rows.append([name, *counts, ", ".join(group["keys"]) + dropped])
    parts.append(markdown_table(["group", "rows", "runs", "tasks", "families", "measures"], rows))
    for split in next(iter(groups["added"].values()), {"splits": {}})["splits"]:
        parts.append(f"### Each group added, {split}\n\n" + _added_table(groups["added"], split, main))
    if groups["taken"]:
        parts.append("### Each group taken from all\n\n" + contest_table(groups["taken"]))
    return "\n\n".join(parts)


def _added_table(added: Mapping[str, Any], split: str, main: str) -> str:
    kinds = ("trivial + group", f"{main} + group", f"{main} - group")
    rows = []
    for name, group in added.items():
        result = group["splits"][split]
        if "too few" in result:
            rows.append([name, f"too few {result['too few']} ({result['count']})", *["-"] * 9])
            continue
        counts = f"{result['rows']} of {result['tasks']}"
        errors = [ranged(result["mae"][contender], 1) for contender in ("trivial", main)]
        gains = [ranged(result["mae gain"].get(kind), 1) for kind in kinds]
        if "tau gain" in result:
            gains += [ranged(result["tau gain"].get(kind), 2) for kind in kinds]
        else:
            gains += [f"too few tasks ({result['ranked tasks']})", "-", "-"]
        rows.append([name, counts, *errors, *gains, str(result["ranked tasks"])])
    header = ["group", "rows of tasks", "error, trivial", f"error, {main}"]
    header += [f"points saved: {kind}" for kind in kinds] + [f"tau added: {kind}" for kind in kinds]
    return markdown_table([*header, "ranked tasks"], rows)


def main() -> None:
    study = study_of(study_parser(__doc__).parse_args())
    print(groups_section(groups(study), study.setting.specification.name))


if __name__ == "__main__":
    main()
