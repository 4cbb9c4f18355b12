"""Turns a sample's ids, labels, weights and masks into chips, runs of image slots and split characters for a page.

It takes the tokens as they are: nothing is encoded or left out here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from minicpmv.models.networks.loss import IGNORED
from minicpmv.show.spelling import Mark, TokenSpelling, spell

__all__ = ["ImageRun", "Kind", "Token", "Word", "arrange_tokens", "classify", "describe_weight"]

Kind = Literal["trained", "context", "template", "image"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """Holds one token of the sequence."""

    position: int
    """From 0."""
    id: int
    kind: Kind
    marks: tuple[Mark, ...]
    text: str
    """As ``marks``, in one string."""
    is_added: bool
    """Whether it is a special or added token, not a piece of text."""
    other_label: int | None = None
    """Label of the token where it differs from the token itself (2.0, between turns); None elsewhere."""
    weight: float = 1.0
    """Weight of the label in the loss; 0 in an answer that is not trained, 1 outside answers."""
    remark: str = ""
    """Its weight in words, where it is neither 1 nor that of the previous token."""
    num_breaks: int = 0
    """Number of line breaks at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """Groups tokens that share a character; usually one token."""

    tokens: tuple[Token, ...]
    whole: str = ""
    """Text of several tokens together; empty for one token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRun:
    """Groups the slots of one slice."""

    label: str
    tokens: tuple[Token, ...]


def classify(*, label: int, is_image: bool, is_template: bool) -> Kind:
    """Classify a token. A trained end token counts as trained, though the format wrote it."""
    if is_image:
        return "image"
    if label != IGNORED:
        return "trained"
    return "template" if is_template else "context"


def describe_weight(weight: float) -> str:
    """Word the weight of an answer; empty if it is 1.

    >>> describe_weight(0.5)
    'weight 0.5'
    """
    if weight == 1:
        return ""
    return f"weight {weight:g}" if weight else "not trained (weight 0)"


def arrange_tokens(
    *,
    input_ids: Sequence[int],
    labels: Sequence[int],
    image_mask: Sequence[bool],
    template_mask: Sequence[bool],
    answer_mask: Sequence[bool],
    label_weights: Sequence[float] | None,
    slices: Sequence[str],
    spelling: TokenSpelling,
) -> list[Word | ImageRun]:
    """Return every token once, in order.

    Args:
        input_ids: The sequence.
        labels: Of each token; unshifted, -100 where nothing is trained.
        image_mask: True where an image feature goes.
        template_mask: True where the format wrote the token.
        answer_mask: True on answers and their ends, trained or not.
        label_weights: Weight of each label; None if all are 1.
        slices: Name of each run of image slots, in order.
        spelling: Of the checkpoint's tokenizer.
    """
    tokens: list[Token] = []
    for position, token_id in enumerate(input_ids):
        label, data = labels[position], spelling.bytes_of(token_id)
        marks = spell(data)
        weight = 1.0
        if label != IGNORED:
            weight = 1.0 if label_weights is None else label_weights[position]
        elif answer_mask[position]:
            weight = 0.0
        kind = classify(label=label, is_image=image_mask[position], is_template=template_mask[position])
        tokens.append(
            Token(
                position=position,
                id=token_id,
                kind=kind,
                marks=tuple(marks),
                text="".join(mark.text for mark in marks),
                is_added=spelling.is_added(token_id),
                other_label=label if label not in (IGNORED, token_id) else None,
                weight=weight,
                remark="" if tokens and weight == tokens[-1].weight else describe_weight(weight),
                num_breaks=len(data) - len(data.rstrip(b"\n")),
            )
        )
    names = iter(slices)
    arranged: list[Word | ImageRun] = []
    for is_image, group in groupby(tokens, key=lambda token: token.kind == "image"):
        if is_image:
            arranged.append(ImageRun(label=next(names), tokens=tuple(group)))
        else:
            arranged.extend(_words(list(group), spelling))
    assert next(names, None) is None, "every slice has its run of slots"
    return arranged


def _words(tokens: Sequence[Token], spelling: TokenSpelling) -> Iterator[Word]:
    """Join tokens that end inside a character with those that complete it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held: list[Token] = []
    for position, token in enumerate(tokens):
        held.append(token)
        decoder.decode(spelling.bytes_of(token.id))
        is_inside, _ = decoder.getstate()
        follower = tokens[position + 1] if position + 1 < len(tokens) else None
        if is_inside and follower is not None and not follower.is_added:
            continue
        data = b"".join(spelling.bytes_of(part.id) for part in held)
        whole = "".join(mark.text for mark in spell(data)) if len(held) > 1 else ""
        yield Word(tokens=tuple(held), whole=whole)
        decoder.reset()
        held = []
