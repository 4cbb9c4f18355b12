"""What an editor is told of the settings of ``minicpmv.train`` is what they are."""

from __future__ import annotations

import ast
import importlib.util
import sys

import pytest

from minicpmv.api.settings import Settings
from minicpmv.training.flags.catalogue import all_settings
from tests.docs.repository import ROOT


@pytest.mark.skipif(sys.version_info < (3, 11), reason="an older transformers declares some of its fields otherwise")
def test_settings_are_those_that_are_declared() -> None:
    """If not: python scripts/python_settings.py."""
    spec = importlib.util.spec_from_file_location("python_settings", ROOT / "scripts/python_settings.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made, kept = script.write_settings(), script.FILE.read_text(encoding="utf-8")
    assert ast.dump(ast.parse(made)) == ast.dump(ast.parse(kept))


def test_every_setting_exists() -> None:
    assert set(Settings.__annotations__) <= set(all_settings())
