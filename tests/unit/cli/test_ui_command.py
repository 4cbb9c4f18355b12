"""What is wrong with the options of ``minicpmv ui`` is said before a model is loaded."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from minicpmv.cli.main import main
from minicpmv.cli.ui_command import _OWN_BASE, _build_parser, _settings
from minicpmv.ui.settings import PageSettings
from minicpmv.ui.speakers import OWN_BASE
from tests.tiny import FIXTURES


@pytest.fixture
def empty_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MINICPMV_UI_PASSWORD", raising=False)
    (tmp_path / "config.json").write_bytes((FIXTURES / "v2_6" / "config.json").read_bytes())  # and no weights
    return str(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--host: found 0.0.0.0 without a password"),
        (["--password", ""], "--password: found nothing, expected a password"),
        (["--port", "70000"], "--port: found 70000, expected a number from 0 to 65535"),
        (["--port", "0", "--compare"], "--compare: found no model after it"),
        (["--port", "0", "--thinking"], "expected a version with a thinking mode"),
    ],
)
def test_wrong_options_are_named(
    empty_model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", empty_model, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "fix:" in error


def test_a_port_that_is_taken_is_known_before_the_model_is_loaded(
    empty_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["ui", empty_model, "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(
    empty_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["ui", empty_model]) == 2
    assert "-m pip install 'minicpmv-finetune[ui]'" in capsys.readouterr().err


def test_defaults_of_the_command_are_those_of_the_settings() -> None:
    assert _settings(_build_parser().parse_args(["model"]), None) == PageSettings()
    assert _OWN_BASE == OWN_BASE
