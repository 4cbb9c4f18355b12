"""Makes token ids of a rendered conversation, and knows of each token whether it is trained or filled by an image.

Both facts come from the segments, never from searching the ids. The boundary between a prompt and an answer is always
a boundary between tokens, because that is where generation starts. Nothing is ever cut to fit a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minicpmv.errors import UsageError
from minicpmv.processing.pictures.canvas import WrittenBlock
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.turns import ImageSegment, Segment, TextKind, TextSegment
from minicpmv.processing.tokens.image_blocks import ImageNumbers, image_block, spell_out_image
from minicpmv.processing.tokens.vocabulary import Vocabulary
from minicpmv.processing.tokens.writer import EncodedSample, TokenWriter
from minicpmv.releases.row import TokenRule, find_code
from minicpmv.releases.table import Version
from minicpmv.wording import counted

__all__ = ["encode", "spell_out"]


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
    writer = TokenWriter(vocabulary)
    numbers = ImageNumbers(version, use_image_id=use_image_id, images_per_block=images_per_block)
    for position, segment in enumerate(segments):
        if isinstance(segment, ImageSegment):
            number, plan = numbers.of(segment), plans[segment.index]
            slot = vocabulary.slot if segment.film is None else vocabulary.frame_slot
            writer.write_image(image_block(plan, version, token_rule=token_rule, number=number), slot)
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
    numbers = ImageNumbers(version, use_image_id=use_image_id, images_per_block=images_per_block)
    for segment in segments:
        if isinstance(segment, ImageSegment):
            number, plan = numbers.of(segment), plans[segment.index]
            slot = None if segment.film is None else markup.frame_slot
            texts.append(spell_out_image(plan, version, token_rule=token_rule, number=number, slot=slot))
        elif segment.kind != "unwritten_end":
            texts.append(segment.text)
    return "".join(texts)


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
