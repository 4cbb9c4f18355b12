"""The site has every page once, and its reference has every command, flag, code and metric."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from minicpmv.cli import main as command_line
from minicpmv.data.checks.code_pages import code_pages
from minicpmv.evaluation.metrics.registry import BUILT_IN
from minicpmv.training.flags.catalogue import all_settings
from tests.docs.repository import DOCUMENTS, ROOT
from website import reference, staging
from website.llms import llms_text
from website.navigation import HOME, NOT_SHOWN, SECTIONS

SHOWN = [page for section in SECTIONS for page in section.pages]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.reference_pages()


def test_every_document_is_shown_once_or_left_out_for_a_reason() -> None:
    listed = Counter([HOME, *NOT_SHOWN, *(page.source for page in SHOWN if not page.is_generated)])
    assert listed == Counter(str(path.relative_to(ROOT)) for path in DOCUMENTS)


def test_every_generated_page_is_shown(pages: dict[str, str]) -> None:
    assert [page.source for page in SHOWN if page.is_generated] == list(pages)


def test_no_two_pages_have_one_address() -> None:
    addresses = list(staging.page_addresses().values())
    assert len(addresses) == len(set(addresses))


def test_every_page_is_described_in_one_sentence() -> None:
    wrong = [
        page.source
        for page in SHOWN
        if not re.fullmatch(r"[A-Z`].*[^.]\.|[\u4e00-\u9fff].*。", page.about) or len(page.about) > 110
    ]
    assert wrong == []


def test_all_commands_are_in_the_reference(pages: dict[str, str]) -> None:
    commands = list(command_line._COMMANDS)
    assert reference.command_names() == commands
    assert re.findall(r"^## (\w+)$", pages["commands.md"], re.MULTILINE) == commands
    for name in commands:
        assert f"minicpmv {name}" in pages["commands.md"], name


def test_all_flags_codes_and_metrics_are_in_the_reference(pages: dict[str, str]) -> None:
    flags = re.findall(r"\{#(\w+)\}", pages["training_flags.md"])
    assert sorted(flags) == sorted(all_settings())
    assert set(re.findall(r"^\| `(\w+)`", pages["metrics.md"], re.MULTILINE)) >= set(BUILT_IN)
    codes_page = next(page.source for page in SHOWN if page.source.endswith("codes.md"))
    assert set(re.findall(r"^### (D\d+):", (ROOT / codes_page).read_text(encoding="utf-8"), re.MULTILINE)) == set(
        code_pages()
    )


def test_names_that_examples_import_are_in_the_reference(pages: dict[str, str]) -> None:
    names = reference.documented_names()
    assert "load_model" in names["minicpmv.inference.loading"]
    for module, members in names.items():
        for name in members:
            assert f":: {module}.{name}\n" in pages["python_names.md"]


def test_links_of_staged_pages_lead_to_staged_files(tmp_path: Path, pages: dict[str, str]) -> None:
    staging.stage(tmp_path, pages)
    staged = sorted(tmp_path.rglob("*.md"))
    assert len(staged) > len(SHOWN)
    for page in staged:
        if "files" in page.parts:
            continue
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", text):
            assert ":" in target or (page.parent / target).is_file(), f"{page.relative_to(tmp_path)}: {target}"


def test_a_link_to_what_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("[a](docs/nope.md)", encoding="utf-8")
    monkeypatch.setattr(staging, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"README\.md: found a link to 'docs/nope\.md'"):
        staging.stage(tmp_path / "out", {})


def test_llms_txt_has_every_page(pages: dict[str, str]) -> None:
    text = llms_text()
    assert text.startswith("# minicpmv-finetune\n\n> Fine-tune MiniCPM-V")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [section.title for section in SECTIONS]
    listed = [PurePosixPath(place).name for place in re.findall(r"^- \[[^\]]+\]\(([^)]+)\): .", text, re.MULTILINE)]
    assert len(listed) == len(SHOWN)
