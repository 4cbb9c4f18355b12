from __future__ import annotations

import pytest

from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.show.spelling import Mark, TokenSpelling, spell
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES


def shown(text: str | bytes) -> str:
    return "".join(mark.text for mark in spell(text if isinstance(text, bytes) else text.encode()))


def test_white_space_and_what_has_no_shape_become_signs() -> None:
    assert shown("a b\n\tc\r") == "a·b↵⇥c␍"
    assert shown("\u200b\u00a0\u3000\x00") == "U+200BU+00A0U+3000U+0000"


def test_a_sign_is_told_from_the_character_it_looks_like() -> None:
    assert spell("· ".encode()) == [Mark("·", is_sign=False), Mark("·", is_sign=True)]


def test_bytes_that_are_no_character_are_written_in_hexadecimal() -> None:
    assert shown("中".encode()[:2]) == "E4B8"
    assert shown(b"a" + "中".encode()[2:]) == "aAD"


def test_ordinary_writing_stays_as_it_is() -> None:
    assert spell("wörld中文".encode()) == [Mark("wörld中文", is_sign=False)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", ["Hello wörld,  two\nlines", "中文 🎉 x", "\t<|im_end|> </s>", "  lead"])
def test_tokens_spell_the_text_that_they_encode(version: str, text: str) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / version)
    spelling = TokenSpelling(processor.tokenizer)
    ids = processor.vocabulary.encode_plain(text)
    assert b"".join(spelling.bytes_of(token) for token in ids).decode() == text


@pytest.mark.parametrize("version", VERSIONS)
def test_a_control_token_is_its_own_name_and_a_piece_of_text_is_no_control_token(version: str) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / version)
    spelling = TokenSpelling(processor.tokenizer)
    image = processor.vocabulary["<image>"]
    assert spelling.is_added(image)
    assert spelling.bytes_of(image) == b"<image>"
    assert not spelling.is_added(processor.vocabulary.encode_plain("Hello")[0])
