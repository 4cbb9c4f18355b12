"""Text of what a model generated: without the padding, and without the format's control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from minicpmv.models.answering.answers import end_token_ids
from minicpmv.processing.batching import PAD_ID
from minicpmv.processing.text.chat import control_tokens_of
from minicpmv.processing.tokens.vocabulary import is_control_token
from minicpmv.releases.table import Version

__all__ = ["decode_generated"]


def decode_generated(
    token_ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, version: Version, **options: Any
) -> str:
    """Decode one row that ``generate`` returned.

    Markup such as ``<box>`` stays, as in the released ``chat()``. Padding has the id of "!" from 2.5 on, and is told
    from text by its place: before the token that opens a prompt, and behind the one that ends an answer.

    Args:
        token_ids: Padding, prompt, answer, its end, padding; any of them may be missing.
        tokenizer: The checkpoint's.
        version: The checkpoint's.
        options: Passed on to the tokenizer's ``decode``.
    """
    ids = tokenizer.added_tokens_encoder
    padding = (PAD_ID, tokenizer.pad_token_id)
    opening = ids[control_tokens_of(version)[0]]
    ends = end_token_ids(tokenizer, version)
    row = list(token_ids)
    text_start = next((place for place, index in enumerate(row) if index not in padding), 0)
    if row and row[text_start] == opening:
        row = row[text_start:]
    last_end = max((place for place, index in enumerate(row) if index in ends), default=len(row))
    if all(index in padding for index in row[last_end + 1 :]):
        row = row[: last_end + 1]
    special = (item for item in tokenizer.added_tokens_decoder.items() if item[1].special)
    control = {index for index, token in special if is_control_token(token.content)}
    options.setdefault("clean_up_tokenization_spaces", False)  # what happens anyway, but for a remark by transformers
    return str(tokenizer.decode([index for index in row if index not in control], **options))
