"""Makes records fit the length limit: fewer slices, then fewer frames of films, then what the user has chosen.

The same record always fits in the same way. An image or frame is never truncated, and text only at the end of a
record's last answer, if the user allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from minicpmv.data.records.record import Record
from minicpmv.data.samples.compared import Comparison, Encoded
from minicpmv.data.sources.skipping import TOO_LONG
from minicpmv.errors import DataError, Problem
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.encoding import WrittenConversation
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import Turn
from minicpmv.processing.tokens.writer import EncodedSample

__all__ = ["Fit", "Limits", "OnLongRecord", "fit_record", "plan_films", "tiles_of_frames", "writing"]

OnLongRecord = Literal["fewer_slices", "error", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Holds the length limit, and the treatment of longer records."""

    max_length: int
    """Tokens, image tokens included."""
    max_slice_nums: int
    """Most tiles per image."""
    on_long_record: OnLongRecord = "fewer_slices"
    """``fewer_slices`` and ``skip``: as many slices, and frames of films, as fit. ``error``: all of them. What does not
    fit even so is an error, or, with ``skip``, left out by the caller."""
    truncate_answers: bool = False
    """Whether the last answer of a record that does not fit otherwise loses its end."""


class Fit(NamedTuple):
    """Holds the length of one record as trained."""

    max_slice_nums: int
    """Most tiles per image."""
    length: int
    """Tokens; the next two are shares of them."""
    num_trained: int
    """With a label, whatever it weighs; an answer of weight 0 has none."""
    num_image_tokens: int
    """Of images and of frames of films."""
    wanted: int
    """Tokens with all the slices that the limit of tiles allows, all frames, and whole text."""
    num_cut: int
    """Tokens that the last answer has lost at its end, that of its end-of-turn token included."""
    max_frames: int = 0
    """Most frames of each film that fit; 0: as many as its plan has."""
    group: int = 0
    """Frames that share a block, in films that have groups; 0: as many as the plan has."""
    num_patches: int = 0
    """Of all slices of all images and frames."""
    has_films: bool = False

    def shown(self, plans: Sequence[FilmPlan]) -> list[FilmPlan]:
        """Return the plans of a record's films with the frames and groups that fit."""
        return [_show(plan, self.max_frames, self.group) for plan in plans]


def plan_films(record: Record, processor: MiniCPMVProcessor) -> list[FilmPlan]:
    """Plan the films of a record whose headers have been read, as it says or else without regard to its length."""
    if record.film_plans is not None:
        return list(record.film_plans)
    facts = record.film_facts
    assert facts is not None or not record.films, "headers are read with the record"
    return [processor.plan_film(each, film.request) for film, each in zip(record.films, facts or (), strict=True)]


def fit_record(
    record: Record,
    image_sizes: Sequence[tuple[int, int]],
    processor: MiniCPMVProcessor,
    limits: Limits,
    comparison: Comparison,
) -> Fit:
    """Find how a record fits: fewer slices, then fewer frames, then larger groups; cut its last answer if allowed.

    Fewer slices are as many as fit. Where one slice for each image is too long, films show fewer frames, taken evenly:
    at least half of them, if larger groups (4.5) make room for them, and otherwise as many as fit.

    Args:
        record: The record.
        image_sizes: (width, height) of its images in pixels.
        processor: The checkpoint's.
        limits: What to fit into.
        comparison: Which answers there are.

    Raises:
        DataError: It is too long nevertheless (D201).
    """
    films = plan_films(record, processor)

    def measure(fit: Fit) -> Any:
        write = writing(processor, image_sizes, fit.shown(films), fit.max_slice_nums)
        encode = partial(_tokens, write, processor)
        return comparison.encode(record, encode, encode)[1]

    keeps_slices = limits.on_long_record == "error" or not (image_sizes or films)
    # Without images, only the tiles of frames would become fewer.
    most = limits.max_slice_nums if image_sizes or not films else tiles_of_frames(processor, limits.max_slice_nums)
    fewest = most if keeps_slices else 1
    fit, wanted = Fit(most, 0, 0, 0, 0, 0), 0
    sample: Any = None
    for max_slice_nums in range(most, fewest - 1, -1):
        fit = Fit(max_slice_nums, 0, 0, 0, 0, 0)
        sample = measure(fit)
        wanted = wanted or len(sample.input_ids)
        if len(sample.input_ids) <= limits.max_length:
            break
    if films and not keeps_slices and len(sample.input_ids) > limits.max_length:
        fit = _choose_frames(films, processor, lambda tried: len(measure(tried).input_ids) <= limits.max_length)
        sample = measure(fit)
    length = len(sample.input_ids)
    if length > limits.max_length:
        if not limits.truncate_answers or _start_of_last_answer(sample.answer_mask) >= limits.max_length:
            raise DataError([_too_long(record, sample, limits, num_images=len(image_sizes), num_films=len(films))])
        length = limits.max_length
    return fit._replace(
        length=length,
        num_trained=length - sample.labels[:length].count(IGNORED),
        num_image_tokens=sum(sample.image_mask),
        wanted=wanted,
        num_cut=len(sample.input_ids) - length,
        num_patches=_count_patches(image_sizes, fit.shown(films), fit.max_slice_nums, processor),
        has_films=bool(films),
    )


def writing(
    processor: MiniCPMVProcessor,
    image_sizes: Sequence[tuple[int, int]],
    films: Sequence[FilmPlan],
    max_slice_nums: int,
) -> Callable[[Sequence[Turn]], WrittenConversation]:
    """Return what writes turns that show images of these sizes, and films by these plans."""
    return partial(
        processor.write,
        image_sizes=image_sizes,
        films=films,
        max_slice_nums=max_slice_nums,
        video_max_slice_nums=tiles_of_frames(processor, max_slice_nums),
    )


def _tokens(
    write: Callable[[Sequence[Turn]], WrittenConversation], processor: MiniCPMVProcessor, turns: Sequence[Turn]
) -> EncodedSample:
    return write(turns).tokens(processor.vocabulary)


def _count_patches(
    image_sizes: Sequence[tuple[int, int]], films: Sequence[FilmPlan], max_slice_nums: int, processor: MiniCPMVProcessor
) -> int:
    plan, tiles = processor.image_processor.plan, tiles_of_frames(processor, max_slice_nums)
    of_images = sum(plan(size, max_slice_nums).num_patches for size in image_sizes)
    return of_images + sum(plan(film.size, tiles).num_patches * len(film.times) for film in films)


def tiles_of_frames(processor: MiniCPMVProcessor, max_slice_nums: int) -> int:
    """Return the most tiles of each frame where pictures have so many: no more than those, nor than frames have."""
    rule = processor.version.reading.films
    return min(max_slice_nums, processor.image_processor.video_max_slice_nums or (rule.max_slices if rule else 1))


def _choose_frames(films: Sequence[FilmPlan], processor: MiniCPMVProcessor, fits: Callable[[Fit], bool]) -> Fit:
    """Return the most frames of each film that fit, and how many share a block; one frame if not even that fits."""
    rule = processor.version.reading.films
    longest = max(len(plan.times) for plan in films)
    smallest = max(plan.group for plan in films)
    largest = max(smallest, rule.max_group if rule is not None and films[0].time_ids is not None else 1)
    fit = Fit(1, 0, 0, 0, 0, 0)
    for group in range(smallest, largest + 1):
        number, above = 1, longest + 1
        while above - number > 1:  # more frames are never shorter
            middle = (number + above) // 2
            is_short = fits(fit._replace(max_frames=middle, group=group))
            number, above = (middle, above) if is_short else (number, middle)
        fit = fit._replace(max_frames=number, group=group)
        if 2 * number >= longest:
            break
    return fit


def _show(plan: FilmPlan, max_frames: int, group: int) -> FilmPlan:
    """Return a plan with no more frames than that, and with larger groups; 0 leaves either as it is."""
    plan = plan.thin(max_frames) if max_frames else plan
    return plan.regroup(max(group, plan.group)) if group and plan.time_ids is not None else plan


def _start_of_last_answer(answer_mask: Sequence[bool]) -> int:
    """Find the first token of the last answer, trained or not: all images, and all other turns, stand before it."""
    position = len(answer_mask)
    while position and not answer_mask[position - 1]:
        position -= 1
    while position and answer_mask[position - 1]:
        position -= 1
    return position


def _too_long(record: Record, sample: Encoded, limits: Limits, *, num_images: int, num_films: int) -> Problem:
    length, needed = len(sample.input_ids), f"set --model_max_length to {len(sample.input_ids)} or more"
    what = "images and films" if num_images and num_films else "films" if num_films else "images"
    images = f", {sum(sample.image_mask)} of them for {what}" if num_images or num_films else ""
    if images and limits.on_long_record == "error":
        fewer = "slices and frames" if num_films else "slices"
        fix = f"{needed}, or allow fewer {fewer} (--on_long_record fewer_slices)"
    else:
        images += " with one slice each" if num_images else ""
        images += f"{' and' if num_images else ' with'} one frame of each film" if num_films else ""
        fix = f"{needed}, or shorten or split the conversation"
    return Problem(
        code=TOO_LONG,
        where=record.where(),
        found=f"{length} tokens{images}",
        expected=f"at most {limits.max_length} (--model_max_length)",
        fix=fix,
    )
