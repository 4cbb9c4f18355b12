"""Which models a comparison loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.ui import speakers
from minicpmv.ui.speakers import OWN_BASE, load_speakers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bases and adapters on them, by their names alone."""
    for base in ("cats", "dogs"):
        (tmp_path / base).mkdir()
    for adapter, base in (("cats-a", "cats"), ("cats-b", "cats"), ("dogs-a", "dogs")):
        (tmp_path / adapter).mkdir()
        config = {"base_model_name_or_path": str(tmp_path / base)}
        (tmp_path / adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speakers, "serve_models", _serve)
    monkeypatch.setattr(speakers, "replace", lambda loaded, **_: loaded)
    return tmp_path


class _Served:
    def __init__(self, loaded: Any, paths: dict[str, str | None]) -> None:
        self.loaded, self.paths = loaded, paths

    def answering_as(self, name: str) -> Any: ...


def _serve(loaded: Any, paths: dict[str, str | None]) -> _Served:
    return _Served(loaded, paths)


class _Loaded:
    class model:
        @staticmethod
        def get_base_model() -> None: ...


def load(model: str, compare: str | None) -> tuple[list[str], list[str]]:
    """Return the names of the speakers and what was loaded for them."""
    loaded: list[str] = []

    def open_model(path: str) -> Any:
        loaded.append(Path(path).name)
        return _Loaded()

    return [speaker.name for speaker in load_speakers(model, compare, load=open_model)], loaded


@pytest.mark.parametrize(
    ("model", "compare", "names", "loaded"),
    [
        ("cats", None, ["cats"], ["cats"]),
        ("cats-a", None, ["cats-a"], ["cats-a"]),
        ("cats-a", OWN_BASE, ["cats-a", "cats"], ["cats"]),
        ("cats-a", "cats", ["cats-a", "cats"], ["cats"]),
        ("cats", "cats-a", ["cats", "cats-a"], ["cats"]),
        ("cats-a", "cats-b", ["cats-a", "cats-b"], ["cats"]),
        ("cats-a", "dogs-a", ["cats-a", "dogs-a"], ["cats-a", "dogs-a"]),
        ("cats-a", "dogs", ["cats-a", "dogs"], ["cats-a", "dogs"]),
    ],
)
def test_weights_that_are_shared_are_loaded_once(
    folder: Path, model: str, compare: str | None, names: list[str], loaded: list[str]
) -> None:
    assert load(model, compare) == (names, loaded)


@pytest.mark.parametrize(
    ("model", "compare", "roles"),
    [
        ("cats-a", OWN_BASE, ["tuned", "base"]),
        ("cats", "cats-a", ["base", "tuned"]),
        ("cats-a", "cats-b", ["", ""]),
        ("cats-a", "dogs", ["", ""]),
        ("cats-a", None, [""]),
    ],
)
def test_only_an_adapter_and_its_own_base_are_before_and_after(
    folder: Path, model: str, compare: str | None, roles: list[str]
) -> None:
    assert [speaker.role for speaker in load_speakers(model, compare, load=lambda _: _Loaded())] == roles  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("model", "compare", "message"),
    [
        ("cats", OWN_BASE, "found no model after it, and 'cats'"),
        ("cats", "./cats", "found './cats' twice"),
    ],
)
def test_two_different_models_are_needed(folder: Path, model: str, compare: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(model, compare)
