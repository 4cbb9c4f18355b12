"""Trains the demo model's own small tokenizer: byte-level BPE with the files and special tokens of MiniCPM-V-2.6.

It is trained on the mixture's questions and answers and the few sentences below; other text takes more tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from minicpmv.demo.data import DIGIT_WORDS, QUESTION
from minicpmv.demo.mixture import conversations

__all__ = ["SPECIAL_TOKENS", "VOCAB_SIZE", "special_token_ids", "train_tokenizer", "write_tokenizer"]

VOCAB_SIZE = 768

_NUM_RESERVED = 6
_PAIRS = ("image", "ref", "box", "quad", "point", "slice", "image_id")
_MARKUP = tuple(tag for name in _PAIRS for tag in (f"<{name}>", f"</{name}>"))
_RESERVED = tuple(f"<|reserved_special_token_{index}|>" for index in range(_NUM_RESERVED))
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_IMAGE_SLOT = "<unk>"
SPECIAL_TOKENS = (*_CONTROL, *_MARKUP, *_RESERVED)
"""Special tokens in the released order, after the base vocabulary.

``<unk>``, the image slot, is the last of the base vocabulary."""

# Qwen2's pattern: words with the space before them, digits one by one, punctuation, runs of space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_SENTENCES = (
    "system\nYou are a helpful assistant.\nuser\nassistant\n",
    "What is this? What do you see here? Please tell me about the photo, and what the people in it are doing.",
    "This is a picture of a man and a woman with their dog on the way home from the market.",
    "Can you read the number? Which word is written there, and how would you say it in one sentence?",
    "There are three cups on the table, two of them with water, one with milk, and a plate of bread next to them.",
)
_SEED, _NUM_CONVERSATIONS = 3, 4000


def special_token_ids() -> dict[str, int]:
    """Return every special token's id: the last ones of the vocabulary, ``<unk>`` before them."""
    first = VOCAB_SIZE - len(SPECIAL_TOKENS) - 1
    return {token: first + index for index, token in enumerate((_IMAGE_SLOT, *SPECIAL_TOKENS))}


def _texts() -> Iterator[str]:
    for _, exchanges in conversations(_SEED, _NUM_CONVERSATIONS):
        for question, answer in exchanges:
            yield question
            yield answer
    for _ in range(40):  # so often that each becomes few tokens
        yield from _SENTENCES
        yield QUESTION
        yield from DIGIT_WORDS


def train_tokenizer(texts: Iterable[str] | None = None) -> Tokenizer:
    """Train the vocabulary on ``texts``, by default the demo's own; the same texts give the same tokenizer.

    Raises:
        ValueError: The texts are too few for a vocabulary of this size.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_base = VOCAB_SIZE - len(SPECIAL_TOKENS) - 1
    trainer = trainers.BpeTrainer(
        vocab_size=num_base,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts() if texts is None else texts, trainer)
    missing = num_base - tokenizer.get_vocab_size()
    if missing:
        raise ValueError(f"the texts give {missing} merges too few for a vocabulary of {VOCAB_SIZE}")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (_IMAGE_SLOT, *SPECIAL_TOKENS)])
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files in MiniCPM-V-2.6's layout."""
    content = json.loads(train_tokenizer().to_str())
    vocab: dict[str, int] = content["model"]["vocab"]
    vocab[_IMAGE_SLOT] = len(vocab)
    ids = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    flags: dict[str, Any] = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    roles["unk_token"] = _IMAGE_SLOT
    more = [*_MARKUP, *_RESERVED]
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(id_): {"content": token, **flags, "special": True} for token, id_ in ids.items()},
        "additional_special_tokens": more,
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 2048,
        "split_special_tokens": False,
        "tokenizer_class": "MiniCPMVTokenizerFast",
        **roles,
    }
    special = {name: {"content": token, **flags} for name, token in roles.items()}
    merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
    _write_json(folder / "tokenizer.json", content)
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(
        folder / "special_tokens_map.json",
        special | {"additional_special_tokens": [{"content": token, **flags} for token in more]},
    )
    _write_json(folder / "added_tokens.json", {token: ids[token] for token in SPECIAL_TOKENS})
    _write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
