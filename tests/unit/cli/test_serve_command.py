"""What is wrong with the options of ``minicpmv serve`` is said before a model is loaded."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from minicpmv.cli.main import main
from minicpmv.cli.serve_command import _build_parser, _settings
from minicpmv.serving.settings import ServerSettings
from tests.tiny import FIXTURES


@pytest.fixture
def empty_model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_bytes((FIXTURES / "v2_6" / "config.json").read_bytes())  # and no weights
    return str(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "cats"], "--adapter: found 'cats', expected NAME=PATH"),
        (["--request-timeout", "0"], "--request-timeout: found 0.0, expected at least 1"),
        (["--batch-delay-ms", "nan"], "--batch-delay-ms: found nan, expected at least 0"),
        (["--api-key", ""], "--api-key: found nothing, expected a key"),
        (["--api-key", "a\nb"], "--api-key: found characters that no header can hold"),
        (["--allowed-image-root", "nowhere"], "--allowed-image-root: found no folder 'nowhere'"),
        (["--port", "70000"], "--port: found 70000, expected a number from 0 to 65535"),
        (["--thinking", "--port", "0"], "expected a version with a thinking mode"),
    ],
)
def test_wrong_options_are_named(
    empty_model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", empty_model, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "fix:" in error


def test_a_port_that_is_taken_is_known_before_the_model_is_loaded(
    empty_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", empty_model, "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(
    empty_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["serve", empty_model]) == 2
    assert "found no uvicorn" in (error := capsys.readouterr().err)
    assert "pip install 'minicpmv-finetune[serve]'" in error


def test_more_tokens_than_the_checkpoint_was_made_for_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(FIXTURES / "v2_6"), "--port", "0", "--max-length", "4096"]) == 2
    assert "--max-length: found 4096, expected at most 2048" in capsys.readouterr().err


def test_defaults_of_the_command_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINICPMV_API_KEY", raising=False)
    assert _settings(_build_parser().parse_args(["model"])) == ServerSettings()
    monkeypatch.setenv("MINICPMV_API_KEY", "secret")
    assert _settings(_build_parser().parse_args(["model"])).api_key == "secret"
