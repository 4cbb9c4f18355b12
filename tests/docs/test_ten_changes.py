"""The ten changes of CONTRIBUTING.md touch the files that it names, and nothing else has to be known."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from transformers.training_args import OptimizerNames

from minicpmv.errors import ConfigError, UsageError
from minicpmv.evaluation.metrics import registry
from minicpmv.machine.cards import CARDS
from minicpmv.releases.table import VERSIONS
from minicpmv.training.flags.catalogue import our_settings
from minicpmv.training.flags.packages import check_optimizer
from minicpmv.training.start.footprint.optimizer_states import Trained, state_bytes
from tests.docs.repository import ROOT

_SOURCES = ROOT / "src/minicpmv"
_SECTION = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Ten changes")[2].partition("\n## ")[0]
_ROWS = [line for line in _SECTION.splitlines() if line.startswith("| ")][1:]
_PAGES = "data evaluation inference clusters preference films"
_OTHER_DOCUMENTS = (*(f"docs/{page}.md" for page in _PAGES.split()), "README.md")


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(path: Path, package: str) -> set[str]:
    """Name the modules of a package that a module imports."""
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            found.add((node.module or "").removeprefix(f"{package}."))
    return found


def test_there_are_ten() -> None:
    assert len(_ROWS) == 10


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_file_of_a_change_exists(row: str) -> None:
    paths = [name for name in re.findall(r"`([^`]+)`", row) if "/" in name or name.endswith(".toml")]
    assert [name for name in paths if not (ROOT / name).exists()] == []


def test_every_flag_is_in_a_document() -> None:
    text = "".join(map(_read, ("docs/training.md", *_OTHER_DOCUMENTS)))
    assert [name for name in our_settings() if re.search(rf"\b{name}\b", text) is None] == []


def test_every_metric_is_in_the_registry_the_document_and_the_published_numbers() -> None:
    names, modules = set(registry.known_names()), _SOURCES / "evaluation/metrics"
    named = {
        node.value.value
        for module in modules.glob("*.py")
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "name"
        and isinstance(node.value, ast.Constant)
    }
    assert named == names
    assert [name for name in names if f"`{name}`" not in _read("docs/evaluation.md")] == []
    values = _read("tests/unit/evaluation/metrics/test_values.py")
    assert [name for name in names if f'"{name}"' not in values] == []


def _is_refused(optimizer: str) -> bool:
    try:
        check_optimizer({"optim": optimizer}, given=frozenset({"optim"}))
    except ConfigError:  # its package is not installed
        return False
    except UsageError:
        return True
    return False


def _is_estimated(optimizer: str) -> bool:
    try:
        state_bytes(optimizer, [Trained((64, 64), is_embedding=False)])
    except UsageError:
        return False
    return True


def test_every_optimizer_that_trains_is_estimated_but_for_those_of_rare_packages() -> None:
    trains = {each.value for each in OptimizerNames if not _is_refused(each.value)}
    unknown = {name for name in trains if not _is_estimated(name)}
    assert {name.partition("_")[0] for name in unknown} == {"apollo", "galore", "grokadamw", "stable"}


def test_every_module_of_formats_is_reached_from_reading() -> None:
    folder, package = _SOURCES / "data/records/formats", "minicpmv.data.records.formats"
    modules = {path.stem: path for path in folder.rglob("*.py") if path.stem != "__init__"}

    def used_by(path: Path) -> set[str]:
        named = {name for each in (package, f"{package}.containers") for name in _imported(path, each)}
        return {name.rpartition(".")[2] for name in named} & modules.keys()

    reached, todo = set[str](), used_by(_SOURCES / "data/records/reading.py")
    while todo:
        reached |= todo
        todo = {name for each in todo for name in used_by(modules[each])} - reached
    assert reached == modules.keys()


def test_every_release_is_in_the_document() -> None:
    assert [name for name in VERSIONS if name not in _read("docs/versions.md")] == []


def test_every_gpu_is_in_the_document() -> None:
    listed = _read("docs/estimate.md")
    assert [name for name in CARDS if name != "cpu" and f"`{name}`" not in listed] == []


def test_the_rule_of_the_attention_kernel_is_asked_for_in_one_place_of_the_models() -> None:
    asking = [path for path in _SOURCES.rglob("*.py") if "attention_kernel(" in path.read_text(encoding="utf-8")]
    places = {str(path.relative_to(_SOURCES)) for path in asking}
    assert places == {"machine/kernels.py", "machine/description.py", "models/attention/kernel.py"}
