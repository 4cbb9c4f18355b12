"""Translates the tokenizer for llama.cpp: tokens with their kinds, merges, the pre-tokenizer, and the end tokens.

It supports only byte-level BPE, the kind of 2.5, 2.6 and 4.5. llama.cpp identifies its built-in pre-tokenizers by name;
the checkpoint's must be one of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerFast

from minicpmv.errors import CheckpointError
from minicpmv.models.answering.answers import end_token_ids
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokens.vocabulary import MARKUP, is_control_token

__all__ = ["token_kinds", "write_vocabulary"]

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_SPLITTERS: Mapping[str, str] = {
    _WORDS.format(digits=r"\p{N}"): "qwen2",  # of 2.6 and 4.5, and of the demo
    _WORDS.format(digits=r"\p{N}{1,3}"): "llama-bpe",  # of 2.5
}


def write_vocabulary(writer: GGUFWriter, processor: MiniCPMVProcessor, *, size: int) -> None:
    """Write everything that converts text to ids and back, except the chat template.

    Args:
        writer: Writer of the language model's file.
        processor: The checkpoint's.
        size: Rows of the embeddings; a tokenizer may have fewer tokens.

    Raises:
        CheckpointError: llama.cpp does not support such a tokenizer.
    """
    tokenizer: Any = processor.tokenizer  # transformers leaves the kinds of its ids open
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    splitter = _splitter(content)
    tokens, kinds = token_kinds(tokenizer, size)
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = content["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    # The template writes the begin token, where there is one; the engine must not add another.
    writer.add_add_bos_token(False)
    ends = end_token_ids(tokenizer, processor.version)
    writer.add_eos_token_id(ends[0])
    writer.add_eot_token_id(ends[0])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)


def token_kinds(tokenizer: PreTrainedTokenizerFast, size: int) -> tuple[list[str], list[int]]:
    """List every token's text and kind, by id.

    llama.cpp does not print control tokens. Markup such as ``<box>``, which released files declare special, is part of
    answers, and so is the "!" that 2.5 declares as padding.
    """
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens: list[str] = []
    kinds: list[int] = []
    for index in range(size):
        token = by_id.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            kinds.append(TokenType.UNUSED)
            continue
        tokens.append(token)
        kinds.append(_kind(token, added.get(index)))
    return tokens, kinds


def _kind(token: str, added: Any) -> TokenType:
    if added is None:
        return TokenType.NORMAL
    if token in MARKUP or not added.special:
        return TokenType.USER_DEFINED
    return TokenType.CONTROL if is_control_token(token) else TokenType.NORMAL


def _splitter(content: dict[str, Any]) -> str:
    """Return llama.cpp's name of the pre-tokenizer, or refuse a tokenizer that llama.cpp would read differently."""
    model = content["model"]
    steps = content.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    is_byte_level = steps[-1].get("type") == "ByteLevel"
    if model["type"] == "BPE" and not model.get("byte_fallback") and is_byte_level and len(patterns) == 1:
        name = _SPLITTERS.get(patterns[0])
        if name is not None:
            return name
    kind = f"{model['type']} with {'byte fallback' if model.get('byte_fallback') else f'the pattern {patterns}'}"
    raise CheckpointError(
        f"tokenizer.json: found {kind}, expected byte-level BPE that splits text as 2.5, 2.6 or 4.5 does: "
        "llama.cpp has its pre-tokenizers built in, and this is none of them\n"
        "  fix: use the tokenizer that belongs to the checkpoint"
    )
