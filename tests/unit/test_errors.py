"""Every fault can be sent from one process to another: message, fields and all."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import minicpmv
from minicpmv.data.media.film_faults import FilmError
from minicpmv.errors import CheckpointError, DataError, ImageError, MiniCPMVError, NotFiniteError, Problem, UsageError

_PROBLEM = Problem("D104", "a.json record 1", "2 tags", "1", "remove one")
_EXAMPLES = [
    MiniCPMVError("a"),
    UsageError("a"),
    CheckpointError("a"),
    NotFiniteError("a", rows=[1, 2]),
    DataError([_PROBLEM]),
    DataError("Traceback ...\nDataError: a"),
    ImageError(where="a.png", found="nothing", expected="a picture", fix="add it"),
    FilmError("damaged", where="a.mp4", found="a damaged frame", expected="a whole film", fix="add it", second=1.5),
]


def test_faults_come_out_of_a_pickle_as_they_went_in() -> None:
    for error in _EXAMPLES:
        error.is_of_one_process = True
        found = pickle.loads(pickle.dumps(error))  # noqa: S301  ours
        assert type(found) is type(error)
        assert (str(found), vars(found)) == (str(error), vars(error))


def _made_otherwise() -> Iterator[str]:
    """Yield the names of faults with an ``__init__`` of their own, which is what a pickle stumbles over."""
    files = Path(minicpmv.__file__).parent.rglob("*.py")
    nodes = chain.from_iterable(ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files)
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def is_fault(name: str) -> bool:
        bases = classes[name].bases if name in classes else []
        return name == "MiniCPMVError" or any(is_fault(ast.unparse(base)) for base in bases)

    for name, node in classes.items():
        own = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        if "__init__" in own and is_fault(name):
            yield name


def test_every_fault_that_is_made_otherwise_is_among_the_examples() -> None:
    assert {type(error).__name__ for error in _EXAMPLES} >= set(_made_otherwise()) >= {"ImageError"}
