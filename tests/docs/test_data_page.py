"""docs/data.md and the page of codes: right records load, wrong ones give the printed message, no code is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from minicpmv.cli.main import main
from minicpmv.data.checks.code_pages import code_pages
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError
from minicpmv.releases.table import VERSIONS
from tests.unit.data.odd_images import save_odd_images

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
CODES_PAGE = (ROOT / "src/minicpmv/data/checks/assets/codes.md").read_text(encoding="utf-8")
CODES = re.split(r"^### (?=D\d+: )", CODES_PAGE, flags=re.MULTILINE)[1:]
WRONG = {
    section[:4]: (block.group(1), block.group(2))
    for section in CODES
    if (block := re.search(r"```json\n(.*?)\n```\n\n```text\n(.*?)\n```", section, re.DOTALL))
}
RIGHT = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    save_odd_images(Path())


@pytest.mark.parametrize("example", RIGHT)
def test_right_records_load(example: str) -> None:
    Path("train.json").write_text(example)
    assert load_records("train.json")


def test_lines_of_the_page_load() -> None:
    (example,) = re.findall(r"```jsonl\n(.*?\n)```", PAGE, re.DOTALL)
    Path("train.jsonl").write_text(example)
    assert [len(record.images) for record in load_records("train.jsonl")] == [1, 0]


def test_csv_of_the_page_loads() -> None:
    (example,) = re.findall(r"```csv\n(.*?\n)```", PAGE, re.DOTALL)
    Path("train.csv").write_text(example)
    (record,) = load_records("train.csv")
    assert (record.id, record.images, record.turns[1].text) == ("007", ("cat.png",), "A cat.")


def test_table_of_the_page_loads() -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `data`")
    (example,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    exec(example, {})
    (record,) = load_records("train.parquet")
    assert record.images == (Path("cat.png").read_bytes(),)


def test_all_styles_of_the_page_make_our_records() -> None:
    """The same question in LLaVA's style and OpenAI's gives the same turns."""
    turns = []
    for heading in ("### LLaVA and ShareGPT", "### OpenAI's messages"):
        (example, *_) = re.findall(r"```json\n(.*?)\n```", PAGE.partition(heading)[2], re.DOTALL)
        Path("train.json").write_text(example)
        (record,) = load_records("train.json")
        turns.append([turn for turn in record.turns if turn.role != "system"])
    assert turns[0] == turns[1]


def test_conversion_of_the_page_names_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "<box>10 20 900 60</box>"}]
    Path("train.json").write_text(json.dumps([{"id": "a7", "image": "cat.png", "conversations": messages}]))
    assert main(["convert", "train.json", "--pixel-boxes", "--output", "out.jsonl"]) == 2
    (section,) = (section for section in CODES if section.startswith("D139"))
    assert capsys.readouterr().err.strip().removeprefix("error: ") in section


@pytest.mark.parametrize("code", [code for code in WRONG if code < "D3"])
def test_wrong_records_give_the_printed_message(code: str) -> None:
    example, message = WRONG[code]
    Path("train.json").write_text(example)
    with pytest.raises(DataError) as caught:
        load_records(
            "train.json",
            version={
                "D151": VERSIONS["2.0"],
                "D152": VERSIONS["4.5"],
                "D153": VERSIONS["2.0"],
                "D164": VERSIONS["2.6"],
                "D167": VERSIONS["2.6"],
            }.get(code),
        )
    by_pillow = re.compile(r"\(OSError: .*?\)|\(Image size .*?attack\.\)")  # its words change between releases
    assert by_pillow.sub("", str(caught.value)) == by_pillow.sub("", message)


@pytest.mark.parametrize("code", [code for code in WRONG if code > "D3"])
def test_odd_records_give_the_printed_notice_and_load(code: str) -> None:
    example, message = WRONG[code]
    Path("train.json").write_text(example)
    survey = Survey(["train.json"])
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    (finding,) = survey.findings
    assert (str(finding.problem), finding.problem.severity) == (message, "notice")
    if code != "D307":  # where Pillow warns
        assert load_records("train.json")


def test_the_package_explains_codes_with_the_text_of_the_page() -> None:
    pages = code_pages()
    assert [f"{page.code}: {page.title}\n\n{page.text}" for page in pages.values()] == [
        re.split(r"^#{2,3} ", section, flags=re.MULTILINE)[0].strip() for section in CODES
    ]


def test_every_code_of_the_package_has_its_section() -> None:
    sources = (ROOT / "src" / "minicpmv" / "data").rglob("*.py")
    used = {code for source in sources for code in re.findall(r'"(D[1-3]\d\d)"', source.read_text(encoding="utf-8"))}
    assert sorted(used) == [section[:4] for section in CODES]
    assert len(RIGHT) == 11
    # D101, D104, D108, D139, D146, D147, D170, D172 to D176, D181, D322, D332, D333 and D201 to D206 need more than a
    # file of JSON, or many records.
    assert len(used - WRONG.keys()) == 22
