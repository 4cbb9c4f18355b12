"""Collects what a page shows of one record, from the data set that training reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.data.media.opened_films import ReadFilm
from minicpmv.data.records.record import Record
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.length_policy import Fit, plan_films, tiles_of_frames
from minicpmv.data.sources.skipping import TOO_LONG
from minicpmv.errors import DataError
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.encoding import WrittenConversation
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.tool_calls import spell_calls
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Turn
from minicpmv.show.answers import Answers, compare_answers
from minicpmv.show.films import Film, show_film
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
    parts: tuple[str | Picture | Film, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Counts the tokens of one record as shown."""

    total: int
    trained: int
    """Tokens with a label, whatever it weighs."""
    of_kind: dict[Kind, int]
    wanted: int
    """Tokens with all the slices that the limit on tiles allows, and all frames."""
    cut: int
    """Tokens that were truncated from the last answer."""
    limit: int
    """``--model_max_length``."""
    max_slice_nums: int
    """Limit on tiles per image with which the record is shown."""
    wanted_slice_nums: int
    """Limit on tiles per image without regard to length."""
    max_frames: int
    """Most frames of each film that fit; 0 if all do."""

    @property
    def is_reduced(self) -> bool:
        """Return whether the record lost slices to the length limit."""
        return self.wanted - self.cut > self.total and not self.max_frames

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
    films: tuple[Film, ...]
    sequence: tuple[Word | ImageRun, ...]
    lengths: Lengths
    error: str = ""
    """Error that training would raise for it; empty if it would be used."""
    answers: Answers | None = None
    """The better and the worse answer; None if the record has no worse one."""


def view_record(dataset: ConversationDataset, index: int, spelling: TokenSpelling) -> RecordView:
    """Encode one record as training does, and lay it out.

    A record that is too long with one slice per image and one frame per film is shown so, with the error that training
    would raise.

    Args:
        dataset: The data set of training, with the same limits.
        index: Position in it.
        spelling: Of its tokenizer.

    Raises:
        DataError: An image has changed since it was checked.
    """
    record, processor = dataset.records[index], dataset.processor
    sizes = record.image_sizes or tuple(load_image(source).size for source in record.images)
    planned = plan_films(record, processor)

    def write(fit: Fit, plans: Sequence[FilmPlan]) -> WrittenConversation:
        tiles = tiles_of_frames(processor, fit.max_slice_nums)
        return processor.write(
            record.turns, sizes, films=plans, max_slice_nums=fit.max_slice_nums, video_max_slice_nums=tiles
        )

    try:
        fit, error = dataset.fit(index), ""
    except DataError as problem:
        if [each.code for each in problem.problems] != [TOO_LONG]:
            raise
        error, limit = str(problem), dataset.limits.max_slice_nums
        wanted = len(write(Fit(limit, 0, 0, 0, 0, 0), planned).tokens(processor.vocabulary).input_ids)
        fit = Fit(1 if sizes else limit, 0, 0, 0, wanted, 0, max_frames=min(1, len(planned)))
    plans = fit.shown(planned)
    written = write(fit, plans)
    sample = written.tokens(processor.vocabulary)
    if error:
        input_ids, labels, label_weights = sample.input_ids, sample.labels, sample.label_weights
    else:
        item = dataset[index]
        input_ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
        label_weights = item["label_weights"].tolist() if "label_weights" in item else None
        assert input_ids == sample.input_ids[: fit.length], "text, image sizes and plans determine every token"
    pictures = tuple(
        show_picture(
            source, plan, number=number, tokens_of_each=processor.tokens_of(plan), token_side=processor.token_rule.side
        )
        for number, (source, plan) in enumerate(zip(record.images, written.plans, strict=False), start=1)
    )
    films = _films(record, written, processor)
    sequence = arrange_tokens(
        input_ids=input_ids,
        labels=labels,
        image_mask=sample.image_mask[: len(input_ids)],
        template_mask=sample.template_mask[: len(input_ids)],
        answer_mask=sample.answer_mask[: len(input_ids)],
        label_weights=label_weights,
        slices=_name_slices(written, pictures, films),
        spelling=spelling,
    )
    masks = zip(labels, sample.image_mask, sample.template_mask, strict=False)  # of a truncated answer, the rest
    kinds = Counter[Kind](classify(label=label, is_image=image, is_template=own) for label, image, own in masks)
    return RecordView(
        record=record,
        messages=_messages(record, pictures, films),
        pictures=pictures,
        films=films,
        sequence=tuple(sequence),
        lengths=Lengths(
            total=len(input_ids),
            trained=sum(label != IGNORED for label in labels),
            of_kind={kind: kinds[kind] for kind in ("image", "template", "context", "trained")},
            wanted=fit.wanted,
            cut=fit.num_cut,
            limit=dataset.limits.max_length,
            max_slice_nums=fit.max_slice_nums,
            wanted_slice_nums=dataset.limits.max_slice_nums,
            max_frames=fit.max_frames,
        ),
        error=error,
        answers=compare_answers(record),
    )


def _films(record: Record, written: WrittenConversation, processor: MiniCPMVProcessor) -> tuple[Film, ...]:
    """Return the films of a record; the plans of their frames follow those of the pictures."""
    films: list[Film] = []
    place = len(record.images)
    for number, plan in enumerate(written.film_plans, start=1):
        slice_plan, facts = written.plans[place], record.film_facts
        assert facts is not None, "planned"
        film = show_film(
            ReadFilm(record.films[number - 1], facts[number - 1]),
            plan,
            slice_plan,
            number=number,
            tokens_of_block=sum(processor.tokens_of(slice_plan)),
            where=record.where(f"film {number - 1}"),
        )
        films.append(film)
        place += len(plan.times)
    return tuple(films)


def _name_slices(written: WrittenConversation, pictures: Sequence[Picture], films: Sequence[Film]) -> list[str]:
    """Name each run of image slots in the order of the text: of a picture by slice, of a film by frame and slice."""
    frames = [(film, position) for film in films for position in range(len(film.plan.times))]
    names: list[str] = []
    for block in written.layout.blocks:
        first = block.images[0]
        if first < len(pictures):
            names += pictures[first].slice_names(is_only=len(pictures) == 1 and not films)
            continue
        film, position = frames[first - len(pictures)]
        name = film.frame_name(position, len(block.images))
        tiles = range(1, film.slice_plan.num_slices)
        names += [name] if not tiles else [f"{name} overview", *(f"{name} tile {tile}" for tile in tiles)]
    return names


def _messages(record: Record, pictures: Sequence[Picture], films: Sequence[Film]) -> tuple[Message, ...]:
    return tuple(
        Message(
            role=turn.role,
            remark=describe_weight(turn.weight),
            is_trained=turn.role == "assistant" and turn.weight != 0,
            parts=(
                *(_shown(part, pictures, films) for part in turn.content),
                *_said(turn),
            ),
        )
        for turn in record.turns
    )


def _shown(part: Part, pictures: Sequence[Picture], films: Sequence[Film]) -> str | Picture | Film:
    if isinstance(part, FilmRef):
        return films[part.index]
    return pictures[part.index] if isinstance(part, ImageRef) else part


def _said(turn: Turn) -> list[str]:
    """Return the tools that a turn announces, and those it calls."""
    return [*turn.tools, *([spell_calls("", turn.calls)] if turn.calls else [])]
