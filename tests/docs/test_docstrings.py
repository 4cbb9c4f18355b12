"""Everything public has a docstring: it names arguments that exist, shapes of tensors, and what is raised.

It need not name every argument: it says what the types cannot.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.docs.repository import ROOT

_MODULES = sorted((ROOT / "src/minicpmv").rglob("*.py"))
_ARGS = re.compile(r"^Args:\n((?: +.*\n?|\n)+)", re.MULTILINE)


def _documented(docstring: str) -> list[str]:
    section = _ARGS.search(docstring + "\n")
    return re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?:", section.group(1), re.MULTILINE) if section else []


def _functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yield every function with the docstring about its arguments; a class may describe those of its ``__init__``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    yield member, ast.get_docstring(node) or ""


def test_documented_arguments_exist() -> None:
    unknown = []
    for module in _MODULES:
        for function, docstring in _functions(_tree(module)):
            its = function.args
            known = [*its.posonlyargs, *its.args, *its.kwonlyargs, its.vararg, its.kwarg]
            names = {parameter.arg for parameter in known if parameter is not None}
            unknown += [f"{module}: {function.name}: {name}" for name in _documented(docstring) if name not in names]
    assert unknown == []


_TENSOR = re.compile(r"(torch\.)?(Tensor|ndarray|(npt\.)?NDArray\[.*\])( \| None)?")
_SUFFIX = re.compile(r"\w+_[A-Z][A-Z0-9]*|\w+_(?=\d*[A-Z])[A-Z0-9]+")
"""A name that ends in shape letters: ``patches_P588``."""
_SHAPE = re.compile(r"\([\w ]+,[\w *+,.]*\)|\[[\w *]+,[\w *,]*\]|\b(shape|[Ss]calar|each)\b")
"""Dimensions in brackets, or in words: of the same shape, a scalar, one for each record."""


@dataclass(frozen=True)
class _Definition:
    where: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None

    @property
    def docstring(self) -> str:
        """Its own, and for ``__init__`` that of the class."""
        of_class = ast.get_docstring(self.owner) if self.owner is not None and self.node.name == "__init__" else None
        return f"{ast.get_docstring(self.node) or ''}{of_class or ''}"


def _public(module: Path) -> list[_Definition]:
    """Return what is public in a module; its property describes a setter, and the function itself its overloads."""
    found: list[_Definition] = []

    def collect(body: Sequence[ast.stmt], prefix: str, owner: ast.ClassDef | None) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                marks = [ast.unparse(each) for each in node.decorator_list]
                is_described = any(mark == "overload" or mark.endswith(".setter") for mark in marks)
                if (not node.name.startswith("_") and not is_described) or node.name == "__init__":
                    found.append(_Definition(f"{prefix}{node.name} (line {node.lineno})", node, owner))
                    if isinstance(node, ast.ClassDef):
                        collect(node.body, f"{prefix}{node.name}.", node)

    collect(_tree(module).body, "", None)
    return found


@cache
def _tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


@cache
def _classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node for module in _MODULES for node in ast.walk(_tree(module)) if isinstance(node, ast.ClassDef)
    }


def _bases(owner: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Yield the classes of ours that ``owner`` derives from, however far above."""
    for base in owner.bases:
        above = _classes().get(ast.unparse(base).partition("[")[0].rpartition(".")[2])
        if above is not None:
            yield above
            yield from _bases(above)


def _is_described_above(method: str, owner: ast.ClassDef, module: Path) -> bool:
    """Whether a class of ours that ``owner`` derives from describes the method, or a protocol of its module."""
    protocols = [each for each in _tree(module).body if isinstance(each, ast.ClassDef) and _is_protocol(each)]
    members = [each for base in [*_bases(owner), *protocols] if base is not owner for each in base.body]
    return any(ast.get_docstring(each) for each in members if isinstance(each, ast.FunctionDef) and each.name == method)


def _is_protocol(owner: ast.ClassDef) -> bool:
    return any(ast.unparse(base).startswith("Protocol") for base in owner.bases)


def _raised(function: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[str]:
    """Name the errors that leave a function from its own body, not from functions inside it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).rpartition(".")[2]
            if name[0].isupper() and name not in caught:  # others are functions that make an error
                yield name
        elif isinstance(node, ast.Try):
            kinds = [each.type for each in node.handlers if each.type is not None]
            names = [name for kind in kinds for name in re.findall(r"\w+", ast.unparse(kind))]
            body = ast.Module(node.body, [])
            rest = ast.Module([*node.handlers, *node.orelse, *node.finalbody], [])  # pyright: ignore[reportArgumentType]
            yield from _raised(body, caught | {*names})
            yield from _raised(rest, caught)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _raised(node, caught)


def _are_named(error: str, section: str) -> bool:
    """Whether an error stands in a section, or a class that it derives from."""
    names = {error, *(base.name for base in (_bases(_classes()[error]) if error in _classes() else ()))}
    return any(f"{name}:" in section for name in names)


def test_everything_public_has_a_docstring() -> None:
    lacking = [f"{module}: the module" for module in _MODULES if not ast.get_docstring(_tree(module))]
    lacking += [
        f"{module}: {each.where}"
        for module in _MODULES
        for each in _public(module)
        if each.node.name != "__init__"
        and not each.docstring
        and not (each.owner is not None and _is_described_above(each.node.name, each.owner, module))
    ]
    assert lacking == []


def _without_shape(module: Path) -> list[str]:
    """Name the public functions of which a tensor has its shape neither in its name nor in the docstring."""
    lacking: list[str] = []
    for each in _public(module):
        if isinstance(each.node, ast.ClassDef) or _SHAPE.search(each.docstring):
            continue
        parameters = [*each.node.args.posonlyargs, *each.node.args.args, *each.node.args.kwonlyargs]
        typed = {item.arg: ast.unparse(item.annotation) for item in parameters if item.annotation is not None}
        names = [name for name, kind in typed.items() if _TENSOR.fullmatch(kind) and not _SUFFIX.fullmatch(name)]
        returns = ast.unparse(each.node.returns) if each.node.returns is not None else ""
        # What comes back has the shape that the suffix of the only tensor going in states, or it is described.
        names += ["what it returns"] if _TENSOR.fullmatch(returns) else []
        lacking += [f"{module}: {each.where}: {', '.join(names)}"] if names else []
    return lacking


def test_tensors_and_arrays_have_their_shape_in_the_name_or_the_docstring() -> None:
    assert [each for module in _MODULES for each in _without_shape(module)] == []


def test_what_a_function_raises_itself_is_named_under_raises() -> None:
    lacking = []
    for module in _MODULES:
        for each in _public(module):
            if isinstance(each.node, ast.ClassDef):
                continue
            _, _, section = each.docstring.partition("Raises:\n")
            raised = {name for name in _raised(each.node) if not name.startswith("_")}
            lacking += [f"{module}: {each.where}: {name}" for name in sorted(raised) if not _are_named(name, section)]
    assert lacking == []


@pytest.mark.parametrize(
    ("source", "is_seen"),
    [
        ("def f(a_BT: Tensor) -> None:\n    '''Add.'''", False),
        ("def f(a: Tensor) -> None:\n    '''Add.'''", True),
        ("def f(a: NDArray[np.int64] | None) -> None:\n    '''Add (N,) numbers.'''", False),
        ("def f() -> Tensor:\n    '''Add.'''", True),
    ],
)
def test_a_tensor_without_shape_is_seen(source: str, is_seen: bool, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(source)
    assert bool(_without_shape(tmp_path / "m.py")) is is_seen
