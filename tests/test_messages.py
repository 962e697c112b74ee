"""Every message that the package can show stands in docs/refusals.md, each row of which is tested on its message.

A message is found by the longest part of it that never differs. Why a single value is absent is said in one form, the
row of a feature that is undefined, and tested with its measure.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lightning_gengap
from lightning_gengap import errors
from tests.integration.refusals.page import rows

PACKAGE = Path(lightning_gengap.__file__).parent
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.GapError)}
SPEAKERS = {
    *("rank_zero_warn", "rank_zero_info", "warn", "never", "say_failure", "_refused", "BadParameter"),
    *("Refusal", "refused", "Figure", "Mismatch", "no_samples"),
}
LETTERS = 24  # by which a row is found
FEWEST = 12  # letters that tell a message from others
# Those of tests/zoo, tests/learning_curves and tests/test_randomized_data.py have their refusals there.
APART = ("zoo", "learning_curves", "randomized_data.py", "pairs.py")


def written(node: ast.AST | None, constants: dict[str, str]) -> str:
    """The text of an expression, with … for what differs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return written(node.value, constants)
    return constants.get(node.id, "…") if isinstance(node, ast.Name) else "…"


def said_by(call: ast.Call, constants: dict[str, str]) -> str:
    """What a call says; nothing where it is no call of a speaker."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    named = {keyword.arg: written(keyword.value, constants) for keyword in call.keywords}
    if name in ERRORS:
        subject = written(call.args[0], constants) if call.args else "…"
        return f"{subject}: got {named.get('got', '…')}; expected {named.get('expected', '…')}"
    notes = name == "append" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value).endswith("notes")
    return "…".join(
        [*(written(part, constants) for part in call.args), *named.values()] if notes or name in SPEAKERS else []
    )


def messages() -> Iterator[tuple[str, str]]:
    """The place of each message, and the longest part of it that never differs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE)
        if not set(APART) & set(where.parts):
            module = ast.parse(path.read_text())
            constants: dict[str, str] = {}
            for statement in module.body:
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                    constants[statement.targets[0].id] = written(statement.value, constants)
            for call in ast.walk(module):
                if isinstance(call, ast.Call):
                    part = max(said_by(call, constants).split("…"), key=len).strip(" .,;:()")
                    if len(part) >= FEWEST:
                        yield f"{where}:{call.lineno}", part[:LETTERS]


def test_every_message_has_a_row():
    known, found = rows().values(), dict(messages())
    assert len(found) > 80
    assert {where: part for where, part in found.items() if not any(part in row for row in known)} == {}
