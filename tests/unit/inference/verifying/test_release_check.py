"""A directory is compared with its release: what is right is counted, what differs is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.cli.main import main
from minicpmv.inference.verifying.release_check import compare_templates
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text import template_rendering
from tests.omni import write_omni
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES
from tests.tool_templates import with_tools

_NOT_RELEASED = shutil.ignore_patterns("cases*", "inference*", "grads*", "resampler_temporal*", "images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURES / "v4_5", tmp_path / "model", ignore=_NOT_RELEASED)


def verified(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = main(["verify", str(folder), *flags])
    return code, capsys.readouterr().out.splitlines()


def compared(template: str) -> tuple[str, list[str]]:
    processor: Any = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    processor.chat_template = template
    finding = compare_templates(processor, processor.version)
    return finding.said, finding.faults


@pytest.mark.parametrize("version", VERSIONS)
def test_released_directories_differ_where_it_is_known(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verified(FIXTURES / version, capsys, "--template")
    differs = [line for line in lines if line.startswith("  differs: ")]
    if version == "v2_5":  # its template opens an answer whether or not it is asked to
        assert (code, len(differs)) == (1, 1)
        assert differs[0].startswith(
            "  differs: a question and its answer: from character 143 on, this package writes "
        )
    else:
        assert (code, differs) == (0, [])


def test_speech_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verified(write_omni(tmp_path / "o", "o-4.5"), capsys)
    assert code == 0
    assert any(
        line.startswith("weights: 75 tensors of the model") and "; 11 carried, 6,194 bytes" in line for line in lines
    )
    assert any(line.startswith("template: not rendered; --template") for line in lines)


def test_other_weights_and_missing_tokens_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"llm.extra": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("<image_id>", "<imageid>"), encoding="utf-8")
    for name in ("added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace('"<image_id>"', '"<imageid>"'), encoding="utf-8")
    code, lines = verified(folder, capsys)
    assert code == 1
    assert "  differs: <image_id> is not among the added tokens" in lines
    assert any("llm.extra [2]" in line for line in lines)


def test_a_directory_without_weights_is_compared_as_far_as_it_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    code, lines = verified(folder, capsys)
    assert code == 0
    assert "weights: none there; only the other files were compared" in lines


def test_a_difference_is_shown_where_it_begins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["chat_template"] = fields["chat_template"].replace("<|im_end|>\\n", "<|im_end|>\\n\\n")
    file.write_text(json.dumps(fields), encoding="utf-8")
    code, lines = verified(folder, capsys, "--template")
    assert code == 1
    assert any("a question, thinking off: from character" in line and "<|im_end|>\\n\\n" in line for line in lines)


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    told = tmp_path / "told"
    escape = "{{ cycler.__init__.__globals__.os.system('touch " + str(told) + "') }}"
    said, faults = compared(escape)
    assert said.startswith("0 of ")
    assert all("SecurityError" in fault or "UndefinedError" in fault for fault in faults), faults
    assert not told.exists()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'x' * 3000000000 }}", "memory"),
        ("{{ raise_exception('only one turn') }}", "TemplateError: only one turn"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_what_a_template_does_wrong_is_a_difference(template: str, why: str) -> None:
    _, faults = compared(template)
    assert faults
    assert all(why in fault for fault in faults), faults


def test_an_endless_template_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_rendering, "_SECONDS", 2.0)
    inner = "{% for c in range(99999) %}{% endfor %}"
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}" + inner + "{% endfor %}{% endfor %}"
    _, faults = compared(endless)
    assert all("more than 2 s" in fault for fault in faults)


@pytest.mark.parametrize(
    ("template", "said", "is_fault"),
    [
        (None, "tools: the template knows none", False),
        (with_tools(), "tools: announced by the template", False),
        (with_tools().replace("<parameter=", "<argument="), "tools: not written as here", True),
    ],
)
def test_whether_the_template_writes_tools_as_here_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str | None, said: str, *, is_fault: bool
) -> None:
    copy = shutil.copytree(FIXTURES / "v4_6", tmp_path / "model")
    if template is not None:
        (copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    code, lines = verified(copy, capsys, "--template")
    assert code == int(is_fault)
    assert any(line.startswith(said) for line in lines), lines
    assert any("<argument=word>" in line for line in lines) == is_fault
