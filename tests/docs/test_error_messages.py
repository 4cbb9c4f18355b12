"""Every error that a user can meet says where it is, what was found, what was expected and how to mend it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

import pytest

from tests.docs.repository import ROOT

_SOURCES = ROOT / "src/minicpmv"
_MESSAGE = re.compile(r"[^\n]*\S: (?s:.*)\b(found|no)\b(?s:.*)\bexpected\b(?s:.*)\n  fix: \S")

# Module and function whose error is made elsewhere, or passed on: why its message is whole all the same.
_MADE_ELSEWHERE = {
    "evaluation/measuring/losses.py _measure": "puts the record before an error of explain_not_finite",
    "files/disk_space.py check_space": "_message words it; tests/unit/files/test_disk_space.py reads it",
    "files/disk_space.py writing": "_message words it; tests/unit/files/test_disk_space.py reads it",
    "inference/predicting.py _draw_together": "puts the question before an error of explain_not_finite",
    "serving/requests/sent_films.py line": "carries the error that another process has worded",
    "inference/questions.py encode_question": "puts the question before an error of the processor",
    "machine/support.py refuse_unusable": "_word_unused words it; tests/unit/machine/test_support.py reads it",
    "models/adapters/attaching.py _refuse_missing": "its caller words the beginning; test_attaching.py reads it",
    "models/answering/finite_logits.py explain_not_finite": "the variable `found` holds the first three parts",
    "training/finish/verification.py _ask_fresh_process": "describe_verification words it, or _unanswered",
}


def _trees() -> dict[str, ast.Module]:
    files = sorted(_SOURCES.rglob("*.py"))
    return {str(file.relative_to(_SOURCES)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _own_errors(trees: Mapping[str, ast.Module]) -> set[str]:
    """Name every subclass of MiniCPMVError."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found, more = set[str](), {"MiniCPMVError"}
    while more:
        found |= more
        more = {each.name for each in classes if {_name(base) for base in each.bases} & found} - found
    return found


def _text(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """Return the message that a literal, an f-string or a sum of them gives, with {} for each value; else None."""
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, constants) or "{}"
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) or "" for part in node.values)
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left, constants) or '{}'}{_text(node.right, constants) or '{}'}"
    return None


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the name of the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield function, node
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from _calls(node, inside)


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module names at its top."""
    return {
        ast.unparse(node.targets[0]): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def _is_whole(call: ast.Call, constants: Mapping[str, str]) -> bool:
    if _name(call.func) == "DataError":  # made of Problems, which cannot lack a part
        return True
    if {keyword.arg for keyword in call.keywords} >= {"where", "found", "expected", "fix"}:
        return True
    text = _text(call.args[0], constants) if call.args else None
    return text is not None and _MESSAGE.match(text) is not None


def _faulty(trees: Mapping[str, ast.Module], errors: set[str]) -> dict[str, str]:
    return {
        f"{module} {function}": f"line {call.lineno}: {ast.unparse(call)}"
        for module, tree in trees.items()
        for function, call in _calls(tree)
        if _name(call.func) in errors and not _is_whole(call, _constants(tree))
    }


def test_every_error_says_where_what_was_found_what_was_expected_and_how_to_mend_it() -> None:
    trees = _trees()
    faulty = _faulty(trees, _own_errors(trees))
    assert {place: text for place, text in faulty.items() if place not in _MADE_ELSEWHERE} == {}
    assert _MADE_ELSEWHERE.keys() - faulty.keys() == set()


@pytest.mark.parametrize(
    ("message", "is_whole"),
    [
        ("--a: found 1, expected 2\n  fix: type 2", True),
        ("found 1, expected 2\n  fix: type 2", False),
        ("--a: 1, expected 2\n  fix: type 2", False),
        ("--a: found 1\n  fix: type 2", False),
        ("--a: found 1, expected 2", False),
    ],
)
def test_a_message_that_lacks_a_part_is_seen(message: str, is_whole: bool) -> None:
    tree = ast.parse(f"def f():\n    raise UsageError({message!r})")
    assert (_faulty({"m.py": tree}, {"UsageError"}) == {}) is is_whole


def test_no_fix_says_only_to_correct_it() -> None:
    """Someone who knew how would have done so: a fix names a value or a place."""
    found = [str(file.relative_to(_SOURCES)) for file in _SOURCES.rglob("*.py") if "correct it" in file.read_text()]
    assert found == []
