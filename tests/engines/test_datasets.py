"""Hugging Face's data sets train as the file of the same records does; ``datasets`` lies in TRL's environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minicpmv.data.sources.loading import load_records
from tests.docs.repository import ROOT
from tests.engines.conftest import Drive
from tests.engines.ours import contents
from tests.run.training import flags, losses, make_data, run_here, settings_of
from tests.tiny import FIXTURES

pytestmark = pytest.mark.engines


def test_data_sets_of_every_form_are_read_and_trained_as_their_file_is(drive: Drive, tmp_path: Path) -> None:
    """Text for text, pixel for pixel and loss for loss; two splits at once are no records, a class has its name."""
    data = make_data(tmp_path)
    arguments = flags(data, tmp_path / "file", "--bf16", "false", steps=2)
    settings = settings_of(arguments)
    request = {"model": str(FIXTURES / "v2_6"), "data": data, "folder": str(tmp_path), "settings": settings}
    found = drive("trl", request, driver="datasets", PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    forms = ("named", "decoded", "encoded", "several", "saved", "streamed", "pandas")
    assert json.loads(str(found["forms"])) == dict.fromkeys(forms, contents(load_records(data)))
    assert str(found["splits"]).startswith("data: found a DatasetDict with train, test, expected a path")
    assert found["classes"].tolist() == ["dog"] * 4
    assert found["losses"].tolist() == losses(run_here(arguments))
