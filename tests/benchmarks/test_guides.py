"""The measurements behind the guides: what their data hold, and that the pages show what was measured."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from benchmarks.guides.cards import draw_card, negatives, write_cards
from benchmarks.guides.cases import AMOUNTS, SHARES, all_cases
from benchmarks.guides.digits import ALL_DIGITS, first_digits
from benchmarks.guides.measuring import SEEDS, read_results
from benchmarks.guides.runs import remembering
from benchmarks.guides.tables import CHART, MEASURED, PAGES, chart, main, tables, with_tables
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.demo.data import digits_of
from minicpmv.demo.sheets import ASSETS
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.flags.arguments import parse_arguments


def test_fewer_digits_are_a_balanced_part_of_more() -> None:
    subsets = {number: first_digits(number) for number in AMOUNTS}
    held_out = {digit.index for digit in digits_of("heldout")}
    for fewer, more in pairwise(AMOUNTS):
        assert {digit.index for digit in subsets[fewer]} < {digit.index for digit in subsets[more]}
    for number, digits in subsets.items():
        counts = Counter(digit.value for digit in digits)
        assert len(digits) == number
        assert number == ALL_DIGITS or max(counts.values()) - min(counts.values()) <= 1
        assert not held_out & {digit.index for digit in digits}


@pytest.mark.parametrize("share", SHARES)
def test_negatives_are_the_share_that_is_asked_for_and_evenly_spread(share: float) -> None:
    are_negative = negatives(400, share)
    assert sum(are_negative) == round(400 * share)
    assert abs(sum(are_negative[:200]) - sum(are_negative[200:])) <= 1


def test_records_of_cards_say_what_the_picture_shows(tmp_path: Path) -> None:
    records = load_records(str(write_cards(tmp_path, "train", [False, True])))
    for index, is_negative in enumerate((False, True)):
        card = draw_card("train", index, is_negative=is_negative)
        (answer,) = records[index].turns[-1].content
        fields = json.loads(str(answer))
        assert fields == {"letter": card.facts.get("letter"), "colour": card.facts["colour"]}
        assert (fields["letter"] is None) == is_negative == (card.kind == "shape")
        with Image.open(tmp_path / "images" / "train" / f"train-000{index}-{card.kind}.png") as drawn:
            assert ImageChops.difference(drawn, card.image).getbbox() is None
    assert len({record.id for record in records}) == len(records)  # by which prepared records are remembered


def test_flags_of_all_runs_are_those_of_training() -> None:
    cases = all_cases()
    rows = Counter((case.table, case.row) for case in cases)
    assert max(rows.values()) == 1
    for case in cases:
        parse_arguments(["--model", "M", "--data", "D", "--output", "O", *case.words])


def test_pages_show_what_was_measured() -> None:
    measured = read_results(MEASURED)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert text == with_tables(text, tables(measured))
    assert CHART.read_text(encoding="utf-8") == chart(measured)


def test_table_takes_the_place_of_the_one_behind_its_mark() -> None:
    """Where several seeds were run, a cell holds the lowest and the highest value."""
    case = next(case for case in all_cases() if case.row == "5% negatives, 4 epochs")
    results = {
        replace(case, seed=seed).key: {"json_invented": share} for seed, share in zip(SEEDS, (0.25, 0.75), strict=False)
    }
    page = "Before.\n\n<!-- table: negatives -->\n\n| old |\n| --- |\n\n| another |\n"
    written = with_tables(page, tables(results))
    assert "| old |" not in written
    assert "| 5% (20) | 25.0 to 75.0 % |" in written
    assert written.startswith("Before.\n\n<!-- table: negatives -->\n\n| negatives of 400 records |")
    assert written.endswith("|\n\n| another |\n")


def test_remembered_records_are_those_that_would_be_read_again(tmp_path: Path) -> None:
    """Also after they were in a batch, which must not change them."""
    records = load_records(str(write_cards(tmp_path, "train", [False, True])))
    dataset = ConversationDataset(records, MiniCPMVProcessor.from_pretrained(ASSETS / "base"), max_length=256)
    read = [dataset[index] for index in range(2)]
    with remembering():
        remembered = [dataset[index] for index in range(2)]
        Collator(0)(remembered)
        PackedCollator(0)(remembered)
        assert dataset[1] is remembered[1]
    for one, other in zip(read, remembered, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert dataset[1] is not remembered[1]  # outside, each is read as ever


def test_the_command_prints_the_tables_of_the_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["tables"])
    main()
    printed = capsys.readouterr().out
    assert all(table in printed for table in tables(read_results(MEASURED)).values())
