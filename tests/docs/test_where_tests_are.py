"""A module's unit test is found under the module's name, or tests/unit/elsewhere.toml says where its tests are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.docs.repository import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # with Python 3.10 it is installed

_SOURCES, _UNIT = ROOT / "src/minicpmv", ROOT / "tests/unit"
_ELSEWHERE = tomllib.loads((_UNIT / "elsewhere.toml").read_text(encoding="utf-8"))
_MODULES = {
    str(file.relative_to(_SOURCES).with_suffix(""))
    for file in _SOURCES.rglob("*.py")
    if file.name not in ("__init__.py", "__main__.py")
}


def _own_test(module: str) -> str:
    folder, _, name = f"/{module}".rpartition("/")
    return f"{folder}/test_{name}".removeprefix("/")


def _imports(text: str, module: str) -> bool:
    dotted = f"minicpmv.{module.replace('/', '.')}"
    package, _, name = dotted.rpartition(".")
    return (
        re.search(rf"\b{re.escape(dotted)}\b", text) is not None
        or re.search(rf"from {re.escape(package)} import (\([^)]*|.*)\b{name}\b", text) is not None
    )


def test_every_module_has_a_test_of_its_name_or_is_named_elsewhere() -> None:
    without = {module for module in _MODULES if not (_UNIT / f"{_own_test(module)}.py").is_file()}
    assert sorted(without - _ELSEWHERE["modules"].keys()) == []
    assert sorted(_ELSEWHERE["modules"].keys() - _MODULES) == []


def test_every_unit_test_has_the_name_of_a_module_or_a_subject() -> None:
    files = {str(file.relative_to(_UNIT).with_suffix("")) for file in _UNIT.rglob("test_*.py")}
    without = files - {_own_test(module) for module in _MODULES}
    assert sorted(without ^ _ELSEWHERE["subjects"].keys()) == []


def _is_held(module: str, place: str) -> bool:
    name, _, word = place.partition(": ")
    text = (ROOT / "tests" / name).read_text(encoding="utf-8")
    source = (_SOURCES / f"{module}.py").read_text(encoding="utf-8")
    return _imports(text, module) or bool(word and word in text and word in source)


def test_the_file_that_is_named_holds_the_module() -> None:
    places: dict[str, str] = _ELSEWHERE["modules"]
    assert [f"{module}: {place}" for module, place in places.items() if not _is_held(module, place)] == []


def test_a_test_folder_has_the_name_of_a_source_folder() -> None:
    folders = {Path(file).parent.relative_to(_UNIT) for file in _UNIT.rglob("*.py")}
    assert {str(folder) for folder in folders if not (_SOURCES / folder).is_dir()} == set()
