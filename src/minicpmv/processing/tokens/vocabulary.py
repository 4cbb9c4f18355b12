"""Prepares a checkpoint's tokenizer so that templates and contents are encoded apart.

A control token written in a content is plain text there, and a template's are always tokens.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from minicpmv.errors import CheckpointError
from minicpmv.processing.text.chat import control_tokens_of, role_tags_of, typed_as_text
from minicpmv.releases.table import Version

__all__ = ["MARKUP", "Vocabulary", "is_control_token"]

MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<point>", "</point>", "<think>", "</think>")
"""Tokens that people write in questions and answers on purpose; they stay tokens there."""


class Vocabulary:
    """A tokenizer, prepared to encode templates and contents apart.

    Args:
        tokenizer: The checkpoint's own. Tokens added to it later are not seen here.
        version: Tells which role tags are ordinary text.

    Raises:
        CheckpointError: The tokenizer lacks tokens that the version needs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, version: Version) -> None:
        self._added: dict[str, int] = dict(tokenizer.added_tokens_encoder)
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        never_text = re.compile(version.reading.never_text or r"(?!)")
        literal = {text for text in self._added if text in typed_as_text(version) or never_text.fullmatch(text)}
        control = sorted({text for text in special if is_control_token(text)} | literal, key=len, reverse=True)
        kept = sorted((text for text in special - literal if not is_control_token(text)), key=len, reverse=True)
        self._check(version)
        markup = version.reading.markup
        self.slot = self._added[markup.slot]
        """Id of the token that holds the place of an image token."""
        self.frame_slot = self._added[markup.frame_slot or markup.slot]
        """Id of the same for a frame of a film."""
        # A copy: whether special tokens are read as text is a switch of the whole tokenizer, and threads share that.
        self._plain = _calling_special(tokenizer.backend_tokenizer, literal)
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        self._control = _splitter(control)
        self._kept = _splitter(kept)
        control_ids = {self._added[text] for text in control}
        # Where the vocabulary would build a control token out of plain characters, its text is encoded in two halves.
        forged = [text for text in control if not control_ids.isdisjoint(self.encode_plain(text))]
        self._broken = _splitter([*role_tags_of(version), *forged])
        self.newline = self.encode_plain("\n")[-1]
        """Id of the token that is one line break, in vocabularies of whole bytes."""

    def __getitem__(self, token: str) -> int:
        """Return the id of a control token."""
        return self._added[token]

    def encode_plain(self, text: str) -> list[int]:
        """Encode text in which no special token is recognised."""
        return self._plain.encode(text, add_special_tokens=False).ids if text else []

    def find_tokens(self, text: str) -> list[int]:
        """Return where each token of ``encode_plain(text)`` begins, in characters."""
        return [start for start, _ in self._plain.encode(text, add_special_tokens=False).offsets]

    def split_template(self, text: str) -> Iterator[str | int]:
        """Yield the plain stretches of a template's text, and control tokens as ids."""
        for piece in self._control.split(text):
            if piece:
                yield self._added[piece] if self._control.fullmatch(piece) else piece

    def split_content(self, text: str) -> Iterator[str | int | None]:
        """Yield a content's plain stretches, its markup tokens as ids, and None where two stretches may not merge."""
        for piece in self._kept.split(text):
            if piece and self._kept.fullmatch(piece):
                yield self._added[piece]
                continue
            for part in self._broken.split(piece):
                if part and self._broken.fullmatch(part):
                    middle = len(part) // 2
                    yield part[:middle]
                    yield None
                    yield part[middle:]
                elif part:
                    yield part

    def _check(self, version: Version) -> None:
        needed = dict.fromkeys((*control_tokens_of(version), *version.reading.markup.tokens))
        missing = [token for token in needed if token not in self._added]
        if missing:
            raise CheckpointError(
                f"tokenizer: found no token {', '.join(missing)}, expected the tokens of {version.model}\n"
                "  fix: use the tokenizer files that belong to the checkpoint"
            )


def is_control_token(text: str) -> bool:
    """Tell whether a special token is part of a template, so that its spelling in a content is plain text.

    Those are written ``<...>``. Others, such as the "!" that 2.5 declares as padding, are ordinary writing.
    """
    return text.startswith("<") and text.endswith(">") and text not in MARKUP


def _calling_special(tokenizer: Tokenizer, texts: set[str]) -> Tokenizer:
    """Copy a tokenizer, some of whose added tokens the copy calls special."""
    if not texts:
        return copy.deepcopy(tokenizer)
    fields = json.loads(tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["special"] |= token["content"] in texts
    return Tokenizer.from_str(json.dumps(fields))


def _splitter(texts: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern that splits at the given texts and keeps them; without any it never matches."""
    return re.compile("(" + "|".join(re.escape(text) for text in texts) + ")" if texts else r"((?!))")
