"""Finds ids of tokens in a tokenizer's files, and completes a generation config by those at which an answer ends.

Released configs miss some: 2.5's has no ``<|eot_id|>``, with which each of its answers ends, so that ``generate`` alone
would write on to the limit. Which tokens end an answer is in ``versions``, and their ids are in the tokenizer's files;
the tokenizer itself is not loaded for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from minicpmv.releases.model_files import naming_faults, read_object
from minicpmv.releases.table import Version

__all__ = ["complete_end_ids", "find_end_ids", "find_token_ids"]

_OPTIONS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def find_end_ids(place: str | Path, version: Version, **options: Any) -> list[int]:
    """Return the ids of a release's end tokens, in its order; none where the tokenizer's files are not there.

    Args:
        place: A model's directory, or its name on the hub.
        version: Its release.
        options: Those of ``from_pretrained``, of which the ones that say where files are count.
    """
    return list(find_token_ids(place, version.reading.terminators, **options).values())


def find_token_ids(place: str | Path, tokens: Sequence[str], **options: Any) -> dict[str, int]:
    """Return the ids of special tokens by token, in their order, from the first file that knows one of them.

    Args:
        place: As for :func:`find_end_ids`.
        tokens: Tokens to look for.
        options: As for :func:`find_end_ids`.
    """
    where = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
    for file, ids_in in _FILES.items():
        found = cached_file(
            str(place),
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **where,
        )
        if found is not None:
            with naming_faults(found, expected="the tokens of a tokenizer"):
                ids = ids_in(read_object(Path(found), expected="a tokenizer's", fix="download or copy the file again"))
            if known := {token: ids[token] for token in tokens if token in ids}:
                return known
    return {}


def complete_end_ids(stated: int | list[int] | None, ends: list[int]) -> int | list[int] | None:
    """Return what a generation config states, with the ends that it lacks; ``stated`` itself if it has them all."""
    known = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    if set(ends) <= set(known):
        return stated
    return [*ends, *(token_id for token_id in known if token_id not in ends)]


def _ids_in_config(content: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: int(token_id) for token_id, token in content.get("added_tokens_decoder", {}).items()}


def _ids_in_tokenizer(content: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in content.get("added_tokens", [])}


# The small file first: tokenizer.json has megabytes.
_FILES = {"tokenizer_config.json": _ids_in_config, "tokenizer.json": _ids_in_tokenizer}
