"""Reads of a checkpoint's ``config.json`` what the processor needs, and compares its tokens with the tokenizer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from minicpmv.errors import CheckpointError
from minicpmv.processing.conversation_processor import ConversationProcessor
from minicpmv.releases.table import Version, detect_version, is_model_type

__all__ = ["check_ids", "read_config"]


def check_ids(config: Mapping[str, Any], processor: ConversationProcessor, *, where: object) -> None:
    """Make sure that tokens whose ids ``config.json`` states (4.6 and later) have these ids in the tokenizer.

    Raises:
        CheckpointError: One has another.
    """
    markup = processor.version.reading.markup
    named = {
        "image_token_id": markup.slot,
        "video_token_id": markup.frame_slot,
        **dict(zip(("image_start_id", "image_end_id"), markup.image, strict=True)),
        **dict(zip(("slice_start_id", "slice_end_id"), markup.tile, strict=True)),
    }
    for key in (*named, "newline_id"):
        stated, token = config.get(key), named.get(key)
        if stated is None or (key in named and token is None):
            continue
        expected = processor.vocabulary.newline if token is None else processor.vocabulary[token]
        if stated != expected:
            raise CheckpointError(
                f"{where}: {key}: found {stated} in config.json and {expected} in the tokenizer, expected one id for "
                f"{named.get(key, chr(10))!r}\n  fix: use the files that belong to the weights"
            )


def read_config(path: Any, options: Mapping[str, Any]) -> tuple[Version | None, Mapping[str, Any]]:
    """Return the version that ``config.json`` states, and its fields; an adapter's directory may have none."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(path, **options)
    except OSError:
        return None, {}
    return (detect_version(fields), fields) if is_model_type(fields.get("model_type")) else (None, {})
