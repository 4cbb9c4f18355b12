"""The demo's tokenizer: repeatable, complete, in the released order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from minicpmv.demo.data import DIGIT_WORDS
from minicpmv.demo.sheets import ASSETS
from minicpmv.demo.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, special_token_ids, train_tokenizer, write_tokenizer


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "base" / "tokenizer.json"))


def test_training_gives_the_shipped_files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (ASSETS / "base" / file.name).read_text(), file.name


@pytest.mark.parametrize(
    "text", ["Which digit is it?", "Größe: 5 °C\t\n\n", "你好，世界", "A big red ring on a white background.", "🙂", ""]
)
def test_any_text_survives(shipped: Tokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode(text).ids) == text


@pytest.mark.parametrize("word", [*DIGIT_WORDS, "user", "assistant", "system", "\n"])
def test_frequent_words_are_one_token(shipped: Tokenizer, word: str) -> None:
    assert len(shipped.encode(word).ids) == 1


def test_special_tokens_stand_last_in_the_released_order(shipped: Tokenizer) -> None:
    assert shipped.get_vocab_size() == VOCAB_SIZE
    assert special_token_ids() == {token: shipped.token_to_id(token) for token in ("<unk>", *SPECIAL_TOKENS)}
    assert [shipped.id_to_token(VOCAB_SIZE - len(SPECIAL_TOKENS) + i) for i in range(3)] == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    ]  # fmt: skip


def test_the_image_slot_lies_inside_the_base_vocabulary() -> None:
    vocab = json.loads((ASSETS / "base" / "vocab.json").read_text())
    assert vocab["<unk>"] == max(vocab.values())
    assert vocab["!"] == 0


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="merges too few"):
        train_tokenizer(["one", "two"])
