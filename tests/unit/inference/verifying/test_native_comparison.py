"""Logits and answers beside those of transformers' own class, in a process with limits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from minicpmv.cli.main import main
from minicpmv.inference.verifying import native_comparison
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES


def verified(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = main(["verify", str(folder), "--logits", *flags])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith(("logits", "  differs"))]


@pytest.mark.parametrize("version", [pytest.param(version, marks=pytest.mark.slow) for version in ("v4_6", "v4_7")])
def test_logits_and_answers_are_those_of_transformers_class(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verified(FIXTURES / version, capsys)
    assert code == 0
    assert [line.partition(": ")[0] for line in lines] == ["logits, text", "logits, picture"]
    assert all("; the same 12 tokens of an answer: " in line for line in lines), lines


@pytest.mark.long
def test_what_is_computed_otherwise_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights change between the two, as if one of them read them wrongly."""
    folder = shutil.copytree(FIXTURES / "v4_6", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.norm.weight"
    load = native_comparison.load_model

    def load_other(*args: object, **options: object) -> object:
        save_file(tensors | {name: tensors[name].flip(0) + 1}, folder / "model.safetensors", metadata={"format": "pt"})
        return load(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(native_comparison, "load_model", load_other)
    code, lines = verified(folder, capsys)
    assert code == 1
    assert sum(line.startswith("  differs: the logits, by more than 0.001 of the largest") for line in lines) == 2


def test_what_cannot_be_compared_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verified(FIXTURES / "v2_6", capsys)
    assert (code, len(lines)) == (0, 1)
    assert "transformers has no class for openbmb/MiniCPM-V-2_6, and the code that was released" in lines[0]
    empty = shutil.copytree(FIXTURES / "v4_6", tmp_path / "empty", ignore=shutil.ignore_patterns("model*"))
    for file in empty.glob("*.safetensors"):
        file.unlink()
    assert verified(empty, capsys)[1] == ["logits: not compared: no weights are there"]


@pytest.mark.slow
def test_a_class_that_cannot_load_the_weights_is_quoted(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "v4_6", tmp_path / "model", ignore=shutil.ignore_patterns("cases*", "packed*"))
    (folder / "model.safetensors").write_bytes(b"no weights")
    findings = list(native_comparison.compare_computed(folder, VERSIONS["4.6"], dtype="float32"))
    assert findings[0].faults[0].startswith("its process ended with 1: ")
