"""Pieces of an answer together are the answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from minicpmv.models.answering.answers import decode_answer, end_token_ids
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.serving.answers.answer_text import AnswerText
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6").tokenizer


def pieces_of(text: AnswerText, ids: list[int]) -> list[str]:
    pieces: list[str] = []
    for token_id in ids:
        pieces.append(text.push(token_id))
        if text.is_stopped:
            break
    return [*pieces, text.end()]


@pytest.mark.parametrize("name", VERSIONS)
def test_pieces_make_what_is_decoded_at_once(name: str) -> None:
    """Any tokens in any order: halves of characters, control tokens, white space."""
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / name)
    tokenizer, ends = processor.tokenizer, end_token_ids(processor.tokenizer, processor.version)
    draw = random.Random(0)
    spaces = tokenizer(" \n \n a  b \n", add_special_tokens=False)["input_ids"]
    for _ in range(150):
        ids = [draw.choice((draw.randrange(len(tokenizer)), draw.choice(spaces))) for _ in range(draw.randint(1, 30))]
        said = "".join(pieces_of(AnswerText(tokenizer, ends), ids))
        assert said == decode_answer(tokenizer, ids, ends), ids


def test_characters_come_whole_and_as_soon_as_they_can(tokenizer: Any) -> None:
    ids = tokenizer("a 猫 b", add_special_tokens=False)["input_ids"]
    pieces = pieces_of(AnswerText(tokenizer, []), ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[0] == "a"
    assert "".join(pieces) == "a 猫 b"


@pytest.mark.parametrize(
    ("stops", "said"),
    [
        (["END"], "one two"),
        (["two"], "one"),
        (["nothing"], "one two END three"),
        (["three four", "ENDING"], "one two END three"),  # begun and never finished
        (["three", "END"], "one two"),
        (["o"], ""),
    ],
)
def test_nothing_of_a_stop_is_ever_said(tokenizer: Any, stops: list[str], said: str) -> None:
    ids = tokenizer("one two END three", add_special_tokens=False)["input_ids"]
    text = AnswerText(tokenizer, [], stops)
    pieces = pieces_of(text, ids)
    assert "".join(pieces) == said
    assert text.is_stopped == ("three" not in said)
