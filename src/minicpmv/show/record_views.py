"""Collects what a page shows of one record, from the data set that training reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.data.records.record import Record
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.skipping import TOO_LONG
from minicpmv.errors import DataError
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.text.tool_calls import spell_calls
from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.show.pictures import Picture, show_picture
from minicpmv.show.sequence import ImageRun, Kind, Word, arrange_tokens, classify, describe_weight
from minicpmv.show.spelling import TokenSpelling

__all__ = ["Lengths", "Message", "RecordView", "view_record"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn."""

    role: str
    remark: str
    """Weight in the loss, in words; empty for an answer of weight 1 and for other messages."""
    is_trained: bool
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Counts the tokens of one record as shown."""

    total: int
    trained: int
    """Tokens with a label, whatever it weighs."""
    of_kind: dict[Kind, int]
    wanted: int
    """Tokens with all the slices that the limit on tiles allows."""
    cut: int
    """Tokens that were truncated from the last answer."""
    limit: int
    """``--model_max_length``."""
    max_slice_nums: int
    """Limit on tiles per image with which the record is shown."""
    wanted_slice_nums: int
    """Limit on tiles per image without regard to length."""

    @property
    def is_reduced(self) -> bool:
        """Return whether the record lost slices to the length limit."""
        return self.wanted - self.cut > self.total

    @property
    def scale(self) -> int:
        """Return the tokens of a full-width bar."""
        return max(self.total, self.limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordView:
    """Holds one record of a page."""

    record: Record
    messages: tuple[Message, ...]
    pictures: tuple[Picture, ...]
    sequence: tuple[Word | ImageRun, ...]
    lengths: Lengths
    error: str = ""
    """Error that training would raise for it; empty if it would be used."""


def view_record(dataset: ConversationDataset, index: int, spelling: TokenSpelling) -> RecordView:
    """Encode one record as training does, and lay it out.

    A record that is too long with one slice per image is shown so, with the error that training would raise.

    Args:
        dataset: The data set of training, with the same limits.
        index: Position in it.
        spelling: Of its tokenizer.

    Raises:
        DataError: An image has changed since it was checked.
    """
    record, processor = dataset.records[index], dataset.processor
    sizes = record.image_sizes or tuple(load_image(source).size for source in record.images)
    try:
        fit = dataset.fit(index)
    except DataError as problem:
        if [each.code for each in problem.problems] != [TOO_LONG]:
            raise
        error, max_slice_nums, num_cut = str(problem), 1 if sizes else dataset.limits.max_slice_nums, 0
        sample = processor.encode_text(record.turns, sizes, max_slice_nums=max_slice_nums)
        everything = processor.encode_text(record.turns, sizes, max_slice_nums=dataset.limits.max_slice_nums)
        input_ids, labels, wanted = sample.input_ids, sample.labels, len(everything.input_ids)
        label_weights = sample.label_weights
    else:
        error, max_slice_nums, wanted, num_cut, item = "", fit.max_slice_nums, fit.wanted, fit.num_cut, dataset[index]
        sample = processor.encode_text(record.turns, sizes, max_slice_nums=max_slice_nums)
        input_ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
        label_weights = item["label_weights"].tolist() if "label_weights" in item else None
        assert input_ids == sample.input_ids[: fit.length], "text and image sizes determine every token"
    plans = [processor.image_processor.plan(size, max_slice_nums) for size in sizes]
    pictures = tuple(
        show_picture(
            source, plan, number=number, tokens_of_each=processor.tokens_of(plan), token_side=processor.token_rule.side
        )
        for number, (source, plan) in enumerate(zip(record.images, plans, strict=True), start=1)
    )
    sequence = arrange_tokens(
        input_ids=input_ids,
        labels=labels,
        image_mask=sample.image_mask[: len(input_ids)],
        template_mask=sample.template_mask[: len(input_ids)],
        answer_mask=sample.answer_mask[: len(input_ids)],
        label_weights=label_weights,
        slices=[name for picture in pictures for name in picture.slice_names(is_only=len(pictures) == 1)],
        spelling=spelling,
    )
    masks = zip(labels, sample.image_mask, sample.template_mask, strict=False)  # of a truncated answer, the rest
    kinds = Counter[Kind](classify(label=label, is_image=image, is_template=own) for label, image, own in masks)
    return RecordView(
        record=record,
        messages=_messages(record, pictures),
        pictures=pictures,
        sequence=tuple(sequence),
        lengths=Lengths(
            total=len(input_ids),
            trained=sum(label != IGNORED for label in labels),
            of_kind={kind: kinds[kind] for kind in ("image", "template", "context", "trained")},
            wanted=wanted,
            cut=num_cut,
            limit=dataset.limits.max_length,
            max_slice_nums=max_slice_nums,
            wanted_slice_nums=dataset.limits.max_slice_nums,
        ),
        error=error,
    )


def _messages(record: Record, pictures: Sequence[Picture]) -> tuple[Message, ...]:
    return tuple(
        Message(
            role=turn.role,
            remark=describe_weight(turn.weight),
            is_trained=turn.role == "assistant" and turn.weight != 0,
            parts=(
                *(pictures[part.index] if isinstance(part, ImageRef) else part for part in turn.content),
                *_said(turn),
            ),
        )
        for turn in record.turns
    )


def _said(turn: Turn) -> list[str]:
    """Return the tools that a turn announces, and those it calls."""
    return [*turn.tools, *([spell_calls("", turn.calls)] if turn.calls else [])]
