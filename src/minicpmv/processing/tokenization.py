"""Makes token ids of a rendered conversation, and knows of each token whether it is trained or filled by an image.

Both facts come from the segments, never from searching the ids. Text beside text is encoded in one go, as the released
``chat()`` encodes a prompt; the boundary between a prompt and an answer is always a boundary between tokens, because
that is where generation starts. Nothing is ever cut to fit a length.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.pictures.canvas import WrittenBlock
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.chat import control_tokens_of, role_tags_of, typed_as_text
from minicpmv.processing.text.turns import ImageSegment, Segment, TextKind, TextSegment
from minicpmv.releases.row import TokenRule, find_code
from minicpmv.releases.table import Version
from minicpmv.wording import counted

__all__ = ["MARKUP", "EncodedSample", "Vocabulary", "encode", "is_control_token", "spell_out", "spell_out_image"]

MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<point>", "</point>", "<think>", "</think>")
"""Tokens that people write in questions and answers on purpose; they stay tokens there."""


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One conversation in tokens; all its lists have one length."""

    input_ids: list[int]
    labels: list[int]
    """Unshifted: ``labels[i]`` is the token at ``i`` if it is trained, otherwise -100, also in an answer of weight 0.
    One exception in 2.0, where answers between turns have no end token: its label stands on the token that follows the
    answer, and has the answer's weight."""
    image_mask: list[bool]
    """True where an image feature goes, in the order of the image blocks."""
    template_mask: list[bool]
    """True where the format, not the data, wrote the token: role headers, end tokens, tags around slices. A token made
    of both counts as what its first character is."""
    answer_mask: list[bool]
    """True on the tokens of answers and the end tokens written for them, trained or not. A token is never part of an
    answer and of something else, so it has the weight of its own turn."""
    label_weights: list[float] | None = None
    """How much each label counts in the loss, 0.0 where there is none; None where all labels count alike, as 1."""
    position_rows: NDArray[np.int64] | None = None
    """(3, tokens), for releases whose tokens have three positions each; None for the others, whose position is their
    place."""


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


def _calling_special(tokenizer: Tokenizer, texts: set[str]) -> Tokenizer:
    """Copy a tokenizer, some of whose added tokens the copy calls special."""
    if not texts:
        return copy.deepcopy(tokenizer)
    fields = json.loads(tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["special"] |= token["content"] in texts
    return Tokenizer.from_str(json.dumps(fields))


def is_control_token(text: str) -> bool:
    """Tell whether a special token is part of a template, so that its spelling in a content is plain text.

    Those are written ``<...>``. Others, such as the "!" that 2.5 declares as padding, are ordinary writing.
    """
    return text.startswith("<") and text.endswith(">") and text not in MARKUP


def encode(
    segments: Sequence[Segment],
    plans: Sequence[SlicePlan],
    vocabulary: Vocabulary,
    version: Version,
    *,
    token_rule: TokenRule,
    use_image_id: bool,
    images_per_block: Sequence[int] | None = None,
) -> EncodedSample:
    """Encode a rendered conversation.

    Args:
        segments: From ``chat.render``.
        plans: How each image is sliced, by the index that the image segments name.
        vocabulary: The checkpoint's.
        version: The checkpoint's; decides the layout of image blocks.
        token_rule: How many tokens each slice has.
        use_image_id: Whether the images are numbered, from 0 in order of appearance.
        images_per_block: How many images share each block, if any do. As released, the block has the number of the
            first of them, and the others are counted: after a group of three frames numbered 0 comes 3.

    Raises:
        UsageError: The text refers to images that are not there, or the other way round.
    """
    _check_images(segments, plans)
    writer = _Writer(vocabulary)
    numbers = _Numbers(version, use_image_id=use_image_id, images_per_block=images_per_block)
    for position, segment in enumerate(segments):
        if isinstance(segment, ImageSegment):
            number, plan = numbers.of(segment), plans[segment.index]
            slot = vocabulary.slot if segment.film is None else vocabulary.frame_slot
            writer.write_image(_image_block(plan, version, token_rule=token_rule, number=number), slot)
        elif segment.kind == "template":
            writer.write_template(segment.text)
        elif segment.kind == "content":
            writer.write_content(segment.text)
        elif segment.kind == "answer":
            writer.write_answer(segment.text, segment.weight, goes_on=_is_kind(segments, position - 1, "answer_format"))
        elif segment.kind == "answer_format":
            writer.write_answer_format(segment.text, segment.weight)
        elif segment.kind == "end":
            writer.write_end(segment.text, segment.weight)
        else:
            writer.expect(segment.text, segment.weight)
    sample = writer.finish()
    if version.reading.positions is None:
        return sample
    written = [plans[segment.index] for segment in segments if isinstance(segment, ImageSegment)]
    blocks = [
        WrittenBlock(
            slots=slots, sizes=[token_rule.grid(size) for size in plan.tgt_sizes], columns=(plan.grid or (0,))[0]
        )
        for slots, plan in zip(writer.slots_of_each, written, strict=True)
    ]
    place = find_code(version.reading.positions)
    return replace(sample, position_rows=place(sample.input_ids, blocks, newline=vocabulary.newline))


def spell_out(
    segments: Sequence[Segment],
    plans: Sequence[SlicePlan],
    version: Version,
    *,
    token_rule: TokenRule,
    use_image_id: bool,
    images_per_block: Sequence[int] | None = None,
) -> str:
    """Return the text that ``encode`` encodes, image blocks written out in full; the arguments are the same.

    Raises:
        UsageError: As ``encode``.
    """
    _check_images(segments, plans)
    markup = version.reading.markup
    texts: list[str] = []
    numbers = _Numbers(version, use_image_id=use_image_id, images_per_block=images_per_block)
    for segment in segments:
        if isinstance(segment, ImageSegment):
            number, plan = numbers.of(segment), plans[segment.index]
            slot = None if segment.film is None else markup.frame_slot
            texts.append(spell_out_image(plan, version, token_rule=token_rule, number=number, slot=slot))
        elif segment.kind != "unwritten_end":
            texts.append(segment.text)
    return "".join(texts)


def spell_out_image(
    plan: SlicePlan, version: Version, *, token_rule: TokenRule, number: int | None, slot: str | None = None
) -> str:
    """Return the text of one image's block, with the image's number before it unless that is None.

    Args:
        plan: How the image is sliced.
        version: The checkpoint's.
        token_rule: How many tokens each slice has.
        number: The image's.
        slot: The token that holds the place of an image token, if it is not the one for pictures.
    """
    slot = slot or version.reading.markup.slot
    pieces = _image_block(plan, version, token_rule=token_rule, number=number)
    return "".join(slot * piece if isinstance(piece, int) else piece for piece in pieces)


def _image_block(
    plan: SlicePlan, version: Version, *, token_rule: TokenRule, number: int | None
) -> Iterator[str | int]:
    """Yield template text, and how many image tokens come next: the overview's, then those of each tile, row by row."""
    markup = version.reading.markup
    if number is not None:
        assert markup.number is not None, f"{version.model} has no tokens for it"
        opening, closing = markup.number
        yield f"{opening}{number}{closing}"
    overview, *tiles = (token_rule.count(size) for size in plan.tgt_sizes)
    yield from (markup.image[0], overview, markup.image[1])
    if plan.grid is None:
        return
    if markup.grid is not None:
        yield markup.grid[0]
    columns, _ = plan.grid
    for place, tile in enumerate(tiles):
        if place and place % columns == 0:
            yield markup.between_rows
        yield from (markup.tile[0], tile, markup.tile[1])
    if markup.grid is not None:
        yield markup.grid[1]


class _Numbers:
    """Counts pictures and films in order of appearance, each kind by itself."""

    def __init__(self, version: Version, *, use_image_id: bool, images_per_block: Sequence[int] | None) -> None:
        self._numbers_images = use_image_id
        self._numbers_films = use_image_id and version.reading.markup.numbers_films
        self._images_per_block = images_per_block
        self._num_images = 0
        self._films: dict[int, int] = {}

    def of(self, segment: ImageSegment) -> int | None:
        """Return the number to write before an image's block; None for no number."""
        if segment.film is None:
            number = self._num_images
            self._num_images += 1 if self._images_per_block is None else self._images_per_block[segment.index]
            return number if self._numbers_images else None
        if segment.film in self._films:
            return None  # before the film's first frame is its only number
        self._films[segment.film] = number = len(self._films)
        return number if self._numbers_films else None


def _is_kind(segments: Sequence[Segment], position: int, kind: TextKind) -> bool:
    """Whether a segment is text of a kind; there may be none before the first."""
    segment = segments[position] if position >= 0 else None
    return isinstance(segment, TextSegment) and segment.kind == kind


def _check_images(segments: Sequence[Segment], plans: Sequence[SlicePlan]) -> None:
    used = {segment.index for segment in segments if isinstance(segment, ImageSegment)}
    if used != set(range(len(plans))):
        raise UsageError(
            f"conversation: found references to images {sorted(used)} and {counted(len(plans), 'image')}, "
            "expected every image to have its place in the text and the other way round\n"
            "  fix: give as many images as the conversation refers to"
        )


class _Writer:
    """Collects tokens. Plain text waits until something that is not plain text follows, and is then encoded as one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._mask: list[bool] = []
        self._template: list[bool] = []
        self._answers: list[bool] = []
        self._weights: list[float] = []
        self._waiting: list[tuple[str, bool]] = []  # stretches of text, and whether each is a template's
        self._expected: tuple[int, float] | None = (
            None  # label and weight of the next token: an end that is not written
        )
        self._weight: float | None = None  # of the waiting text, if it is an answer's
        self.slots_of_each: list[list[int]] = []
        """Of each image, where the slots of each slice begin."""

    def write_template(self, text: str) -> None:
        self._write(self._vocabulary.split_template(text), is_template=True)

    def write_content(self, text: str) -> None:
        self._write(self._vocabulary.split_content(text))

    def write_answer(self, text: str, weight: float, *, goes_on: bool = False) -> None:
        """Write an answer's text; ``goes_on``: behind words of the format within it."""
        if not goes_on:
            self._flush()
        self._write(self._vocabulary.split_content(text), weight=weight)

    def write_answer_format(self, text: str, weight: float) -> None:
        self._write(self._vocabulary.split_template(text), weight=weight, is_template=True)

    def write_end(self, text: str, weight: float) -> None:
        self._flush()
        self._append([self._vocabulary[text]], [True], weight=weight)

    def expect(self, text: str, weight: float) -> None:
        self._flush()
        self._expected = (self._vocabulary[text] if weight else IGNORED, weight)

    def write_image(self, pieces: Iterator[str | int], slot: int) -> None:
        slots: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                self.write_template(piece)
                continue
            self._flush()
            slots.append(len(self._ids))
            self._append([slot] * piece, [False] * piece, is_image=True)
        self.slots_of_each.append(slots)

    def finish(self) -> EncodedSample:
        self._flush()
        assert self._expected is None, "an unwritten end needs a token after it"
        weights = None if {0.0, 1.0}.issuperset(self._weights) else self._weights
        return EncodedSample(self._ids, self._labels, self._mask, self._template, self._answers, weights)

    def _write(
        self,
        pieces: Iterator[str | int | None] | Iterator[str | int],
        *,
        weight: float | None = None,
        is_template: bool = False,
    ) -> None:
        """Write text; ``weight`` is that of an answer, whose text is never encoded with other text."""
        if weight != self._weight:
            self._flush()
        self._weight = weight
        for piece in pieces:
            if isinstance(piece, str):
                self._waiting.append((piece, is_template))
                continue
            self._flush()
            if piece is not None:
                self._append([piece], [is_template], weight=weight)

    def _flush(self) -> None:
        if self._waiting:
            text = "".join(piece for piece, _ in self._waiting)
            ids = self._vocabulary.encode_plain(text)
            self._append(ids, self._owners(text, len(ids)), weight=self._weight)
            self._waiting.clear()

    def _owners(self, text: str, num_tokens: int) -> list[bool]:
        """Tell of each token of the waiting text whether a template wrote its first character."""
        if len({is_template for _, is_template in self._waiting}) == 1:
            return [self._waiting[0][1]] * num_tokens
        owner_of_character = [is_template for piece, is_template in self._waiting for _ in piece]
        return [owner_of_character[start] for start in self._vocabulary.find_tokens(text)]

    def _append(
        self, ids: list[int], from_template: list[bool], *, weight: float | None = None, is_image: bool = False
    ) -> None:
        labels = list(ids) if weight else [IGNORED] * len(ids)
        weights = [float(weight or 0.0)] * len(ids)
        if self._expected is not None and ids:
            (labels[0], weights[0]), self._expected = self._expected, None
        self._ids += ids
        self._labels += labels
        self._weights += weights
        self._answers += [weight is not None] * len(ids)
        self._mask += [is_image] * len(ids)
        self._template += from_template


def _splitter(texts: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern that splits at the given texts and keeps them; without any it never matches."""
    return re.compile("(" + "|".join(re.escape(text) for text in texts) + ")" if texts else r"((?!))")
