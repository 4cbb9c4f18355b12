"""What transformers' pipelines and trainers say to ``apply_chat_template`` besides what it acts on.

An option that asks for what is done anyway passes; one that could not act is refused, so that nobody relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minicpmv.errors import UsageError

__all__ = ["check_template_options"]

_PASSING: Mapping[str, Sequence[Any]] = {
    "padding": (None, True, "longest"),
    "padding_side": (None, "left"),
    "truncation": (None, False, "do_not_truncate"),
    "max_length": (None,),
    "chat_template": (None,),
    "documents": (None, []),
    "add_special_tokens": (None, False),
    "sanitize_control_tokens": (None, True, False),
    "return_attention_mask": (None, True),
    "return_assistant_tokens_mask": (None, False),
    "return_token_type_ids": (None, False),
    "return_mm_token_type_ids": (None, False),
    "load_audio_from_video": (None, False),
}
"""Values that change nothing: left out, or what is done anyway."""
_FIXES: Mapping[str, str] = {
    "padding": "leave it out: several conversations are padded to the longest, on the left; return_tensors=None gives "
    "lists without padding",
    "padding_side": "leave it out: generation pads on the left; minicpmv.data.samples.collation pads for training",
    "truncation": "leave it out, and shorten the conversation: text and images are never cut",
    "max_length": "leave it out, and shorten the conversation: text and images are never cut",
    "chat_template": "leave it out: the release's own format is written",
    "documents": "put the documents into a user turn",
    "add_special_tokens": "leave it out: the format has all it needs",
    "return_assistant_tokens_mask": "take the labels of processor.encode_conversation",
}


def check_template_options(options: Mapping[str, Any], *, may_be_unpadded: bool) -> None:
    """Check options that have no effect.

    Args:
        options: By name.
        may_be_unpadded: Whether nothing is padded: one conversation, or lists.

    Raises:
        UsageError: One of them asks for something that would not happen.
    """
    for name, value in options.items():
        if name not in _PASSING:
            raise UsageError(
                f"{name}: found an option that apply_chat_template does not know, expected one of its own\n"
                "  fix: leave it out"
            )
        passing = _PASSING[name]
        if name == "padding" and may_be_unpadded:
            passing = (*passing, False, "do_not_pad")
        if value not in passing:
            wanted = " or ".join(repr(known) for known in passing if known is not None)
            raise UsageError(
                f"{name}: found {value!r:.60}, expected {wanted or 'nothing'}\n"
                f"  fix: {_FIXES.get(name, 'leave it out')}"
            )
