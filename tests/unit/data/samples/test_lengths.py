"""What a survey says of lengths, packed rows and steps, in a data set whose lengths are known."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
from transformers import TrainingArguments

from minicpmv.data.records.record import Record
from minicpmv.data.samples import lengths as lengths_module
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.lengths import PackedRows, measure_lengths
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.tiny import FIXTURES

PROCESSOR = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
FRAME = len(PROCESSOR.encode_text((Turn("user", ("",)), Turn("assistant", ("a",))), ()).input_ids) - 1
"""Tokens of a record without those of its texts; a letter is one token."""


def record(index: int, length: int, *, image_size: tuple[int, int] | None = None) -> Record:
    """Make a record of so many tokens; with an image, these are those of its texts and format."""
    question: Any = ("",) if image_size is None else (ImageRef(0),)
    answer = "a" * (length - FRAME)
    return Record(
        source="train.json",
        index=index,
        images=() if image_size is None else ("a.png",),
        image_sizes=() if image_size is None else (image_size,),
        turns=(Turn("user", question), Turn("assistant", (answer,))),
    )


def records(*lengths: int) -> list[Record]:
    return [record(index, length) for index, length in enumerate(lengths)]


def test_rows_and_steps_are_those_of_an_epoch() -> None:
    """Rows of 120 tokens take 80 + 40 and 60 + 60; padded to 80, the four records fill 240 of 320 tokens."""
    measured, problems = measure_lengths(records(80, 60, 60, 40), PROCESSOR, max_length=100, pack_length=120)
    assert not problems
    assert measured.packed == PackedRows(pack_length=120, rows=2, fill=1.0, steps_per_epoch=2)
    assert (measured.steps_per_epoch, measured.padding_in_batches_of_4) == (4, 0.25)
    measured, _ = measure_lengths(records(80, 60, 60, 40), PROCESSOR, max_length=100, pack_length=120, batch_size=3)
    assert measured.packed == PackedRows(pack_length=120, rows=2, fill=1.0, steps_per_epoch=1)
    assert (measured.steps_per_epoch, measured.batch_size) == (2, 3)


def test_rows_are_as_long_as_the_longest_record_allowed_unless_told() -> None:
    measured, _ = measure_lengths(records(80, 60, 60, 40), PROCESSOR, max_length=160)
    assert measured.packed == PackedRows(pack_length=160, rows=2, fill=0.75, steps_per_epoch=2)


def test_rows_come_in_the_order_of_a_run_without_a_seed() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    assert defaults["seed"] == lengths_module._SEED


def test_records_that_do_not_fit_are_left_out_of_every_measure() -> None:
    measured, problems = measure_lengths(records(90, 40, 70, 30), PROCESSOR, max_length=60)
    assert [(index, problem.code) for index, problem in problems] == [(0, "D201"), (2, "D201")]
    assert (measured.records, measured.too_long, measured.total_tokens) == (2, 2, 70)
    assert measured.tokens is not None
    assert dataclasses.astuple(measured.tokens) == (30, 35.0, 40, 40)
    assert measured.packed == PackedRows(pack_length=60, rows=2, fill=70 / 120, steps_per_epoch=2)


def test_a_pair_is_as_long_as_its_question_with_both_answers() -> None:
    """Only with its worse answer is it too long: so it is for a run, which refuses it."""
    pair = dataclasses.replace(record(0, 50), rejected=(Turn("assistant", ("b" * 20,)),))
    whole = ConversationDataset([pair], PROCESSOR, max_length=100, comparison=Comparison(kind="pair")).fit(0).length
    assert whole > 70, "the worse answer has its end token, too"
    measured, problems = measure_lengths([pair, record(1, 40)], PROCESSOR, max_length=whole)
    assert not problems
    assert measured.total_tokens == whole + 40
    _, problems = measure_lengths([pair, record(1, 40)], PROCESSOR, max_length=whole - 1)
    assert [(index, problem.code) for index, problem in problems] == [(0, "D201")]


def test_nothing_that_fits_leaves_nothing_to_plan() -> None:
    measured, problems = measure_lengths(records(90), PROCESSOR, max_length=60)
    assert (len(problems), measured.records, measured.steps_per_epoch) == (1, 0, 0)
    assert (measured.tokens, measured.packed, measured.padding_in_batches_of_4) == (None, None, None)


def test_each_record_is_measured_once_and_nothing_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []
    fit = ConversationDataset.fit
    monkeypatch.setattr(
        ConversationDataset, "fit", lambda self, i, *record: (asked.append(i), fit(self, i, *record))[1]
    )
    seen: list[tuple[int, int]] = []
    sliced = record(1, 30, image_size=(150, 80))
    with caplog.at_level(logging.INFO):
        measured, problems = measure_lengths(
            [record(0, 90), sliced],
            PROCESSOR,
            max_length=45,
            on_progress=lambda done, total: seen.append((done, total)),
        )
    assert (len(problems), measured.fewer_slices) == (1, 1)
    assert asked == [0, 1]
    assert seen == [(1, 2), (2, 2)]
    assert caplog.records == []
