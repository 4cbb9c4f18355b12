"""Names of models on two hubs, by their own clients against a server on this machine; and nothing is asked offline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs import Hub, serve_hub
from tests.tiny import FIXTURES

_NOBODY = "http://127.0.0.1:9"
_FIND = """
import sys
from minicpmv.errors import MiniCPMVError
from minicpmv.releases.directories import find_directory, name_to_load, SMALL_FILES
try:
    folder = find_directory(sys.argv[1], asked_by="MODEL", **SMALL_FILES)
    print(*sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")))
    print(name_to_load(sys.argv[1], asked_by="MODEL"))
except MiniCPMVError as error:
    print(error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """It holds one model, with as few files as can be loaded."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((FIXTURES / "v2_6" / name).read_bytes())
    with serve_hub({"owner/tiny": folder}) as served:
        yield served


def _find(name: str, home: Path, **variables: str) -> tuple[list[str], str]:
    """Return the lines that are printed, and what is said, in a process whose caches are in ``home``."""
    places = {"HOME": str(home), "HF_HOME": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "modelscope")}
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": _NOBODY, "MODELSCOPE_ENDPOINT": _NOBODY}
    words = [sys.executable, "-c", _FIND, name]
    done = subprocess.run(words, env=environment | places | variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr


def test_a_mirror_answers_for_the_hub(hub: Hub, tmp_path: Path) -> None:
    """transformers then loads by the name, and so fetches the weights from the mirror, too."""
    assert _find("owner/tiny", tmp_path, HF_ENDPOINT=hub.address)[0] == ["config.json", "owner/tiny"]


def test_a_name_on_modelscope_is_fetched_whole_where_it_is_loaded(hub: Hub, tmp_path: Path) -> None:
    found, said = _find("modelscope:owner/tiny", tmp_path, MODELSCOPE_ENDPOINT=hub.address)
    assert found[0] == "config.json"
    assert (Path(found[1]) / "model.safetensors").read_bytes() == (FIXTURES / "v2_6/model.safetensors").read_bytes()
    assert "notice" not in said
    hub.asked.clear()
    again = _find("modelscope:owner/tiny", tmp_path, MODELSCOPE_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")[0]
    assert again == ["config.json model.safetensors", found[1]]
    assert hub.asked == [], "offline, only the cache is looked at"


def test_offline_modelscope_is_not_asked(hub: Hub, tmp_path: Path) -> None:
    variables = {"MODELSCOPE_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "1"}
    told = "\n".join(_find("modelscope:owner/tiny", tmp_path, **variables)[0])
    assert told.startswith("MODEL: found no copy of ModelScope's 'owner/tiny' in the cache")
    assert "fix: " in told
    assert "MODEL: found neither a directory" in "\n".join(_find("owner/tiny", tmp_path, **variables)[0])
    assert hub.asked == []


@pytest.mark.parametrize("first", ["does not answer", pytest.param("has none", marks=pytest.mark.slow)])
def test_what_the_first_hub_has_not_is_modelscopes_with_a_notice(first: str, hub: Hub, tmp_path: Path) -> None:
    with serve_hub({}) as empty:
        address = {"does not answer": _NOBODY, "has none": empty.address}[first]
        found, said = _find("owner/tiny", tmp_path, HF_ENDPOINT=address, MODELSCOPE_ENDPOINT=hub.address)
    assert found[1].startswith(str(tmp_path / "modelscope"))
    assert said.count("notice: owner/tiny is taken from ModelScope") == 1


def test_what_no_hub_has_is_an_error_that_names_both(hub: Hub, tmp_path: Path) -> None:
    told = "\n".join(_find("owner/none", tmp_path, HF_ENDPOINT=hub.address, MODELSCOPE_ENDPOINT=hub.address)[0])
    assert told.startswith("MODEL: found neither a directory 'owner/none' nor a hub repository of that name")
    assert "`hf download owner/none`" in told
    assert "modelscope:owner/none" in told


def test_without_the_client_the_extra_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "modelscope_hub.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    told = "\n".join(_find("modelscope:owner/tiny", tmp_path, PYTHONPATH=path)[0])
    assert told.startswith("MODEL: found a name on ModelScope but no modelscope-hub, expected the package")
    assert told.endswith("-m pip install 'minicpmv-finetune[modelscope]'")
