"""Provides records as a map-style torch dataset. Pictures and films are opened on access; nothing is changed silently.

A record that is too long is made to fit, or refused, as ``fitting`` says. A record that turns out bad is an error, or,
where the user said so, an item without tokens, which collators pass over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from minicpmv.data.machine_copies import join, remaining
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import Selected
from minicpmv.data.samples.answer_scores import KnownScores
from minicpmv.data.samples.cached_features import KnownFeatures
from minicpmv.data.samples.compared import Comparison, Encoded, Tokens
from minicpmv.data.samples.length_policy import Fit, Limits, OnLongRecord, fit_record, plan_films, writing
from minicpmv.data.samples.length_report import LengthReport, report_lengths
from minicpmv.data.samples.shown_media import ShownMedia, load_picture
from minicpmv.data.samples.token_counts import FIT, measure
from minicpmv.data.sharing import ALONE, Sharing, part_of
from minicpmv.data.sources.cache import Entry
from minicpmv.data.sources.skipping import TOO_LONG, SkipLog
from minicpmv.errors import ConfigError, DataError, Problem
from minicpmv.processing.encoding import WrittenConversation
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import Turn

__all__ = ["ConversationDataset"]

_logger = logging.getLogger(__name__)

Write = Callable[[Sequence[Turn]], WrittenConversation]
"""Writes turns of a record with its images and films."""

_STOPS_ANY_RUN = {"D204", "D205", "D206"}
"""Codes that are not about one record: what is there has changed since the run began, or too many records are bad."""


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Encodes one record at a time; safe in worker processes and deterministic in any order.

    An item holds ``input_ids`` and ``labels`` [T] int64, ``image_mask`` [T] bool, ``pixel_values`` [P, 588] uint8 and
    ``tgt_sizes`` [S, 2] int64, the last two without rows for a record without images, and ``pixel_table`` [3, 256]
    float32, which says what a byte of each channel stands for. A skipped record has T = 0. A record with a film of
    which the model is told the times (4.5) also has ``temporal_ids`` [S, 2] int64. Where
    labels do not all count alike, it also has ``label_weights`` [T] float32, 0 where there is no label. Where tokens
    have three positions each, it has ``position_rows`` [3, T] int64.
    With ``known``, a record with images or films also has ``known_slices`` [S] bool: all true, and what
    ``KnownFeatures`` found is in place of pixels; or all false, and ``picture_keys`` [images, 32] uint8 and
    ``slices_per_picture`` [images] int64 say what to store; with films both have a row for each slice.
    Where answers are compared, ``segments`` [answers, 4] int64 says where they are, as ``Layout.read`` takes it. With
    ``scores``, ``reference_log_probs`` [labels] float32 is what was found there, or ``answer_keys`` [answers, 32] uint8
    says what to store.

    Args:
        records: From ``load_records`` or ``load_mixture``.
        processor: The checkpoint's.
        max_length: Most tokens of one record, image tokens included.
        max_slice_nums: Most tiles per image; the checkpoint's own number if not given.
        on_long_record: What becomes of a record that does not fit, see ``fitting.Limits``. ``skip`` leaves it out.
        truncate_answers: Whether a record that does not fit otherwise loses the end of its last answer.
        comparison: Which answers of a record there are; by default those of the conversation.

    Raises:
        ConfigError: A limit cannot work.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: MiniCPMVProcessor,
        *,
        max_length: int,
        max_slice_nums: int | None = None,
        on_long_record: OnLongRecord = "fewer_slices",
        truncate_answers: bool = False,
        comparison: Comparison | None = None,
    ) -> None:
        for name, value in (("model_max_length", max_length), ("max_slice_nums", max_slice_nums)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: found {value}, expected at least 1\n  fix: set {name} to a positive number")
        self.records = records
        self.processor = processor
        self.limits = Limits(
            max_length=max_length,
            max_slice_nums=processor.image_processor.slice_config(max_slice_nums).max_slice_nums,
            on_long_record=on_long_record,
            truncate_answers=truncate_answers,
        )
        self.comparison = comparison or Comparison()
        self.skip_log: SkipLog | None = None
        """Where a record that turns out bad when it is asked for is written down; without it, that is an error."""
        self.known: KnownFeatures | None = None
        """Where features of images are looked up before the images are decoded."""
        self.scores: KnownScores | None = None
        """Where log-probabilities of compared answers under the reference are looked up."""
        self.digests: PictureDigests | None = None
        """Remembers what each image file that was read held."""
        self._fits = np.zeros(len(records), FIT)  # a length of 0: nobody has looked

    def __len__(self) -> int:
        return len(self.records)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each record; of one that nobody has measured, as many as there may be."""
        return self._known_or_most("length")

    @property
    def num_image_tokens(self) -> NDArray[np.int32]:
        """Tokens of images of each record; of one that nobody has measured, all its tokens."""
        return self._known_or_most("num_image_tokens")

    @property
    def may_have_films(self) -> bool:
        """Return whether a record has a film, or nobody has measured one."""
        return bool((self._fits["length"] == 0).any() or self._fits["has_films"].any())

    def _known_or_most(self, name: str) -> NDArray[np.int32]:
        return np.where(self._fits["length"] > 0, self._fits[name], self.limits.max_length)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Encode one record.

        Raises:
            DataError: It is bad or too long, or an image or the data file is no longer what it was when checked. With a
                ``skip_log`` only if that stops any run.
        """
        try:
            return self._encode(index)
        except DataError as error:
            codes = {problem.code for problem in error.problems}
            if self.skip_log is None or not codes.isdisjoint(_STOPS_ANY_RUN):
                raise
            self.skip_log.add({self._name(index, error): error.problems})
            return _nothing(self.processor.image_processor)

    def _encode(self, index: int) -> dict[str, Tensor]:
        record = self.records[index]
        fit = self.fit(index, record)
        media = self._media(record, fit)
        if self.known is not None and (record.images or media.films):
            return self._encode_or_find(media, fit, self.known)
        return self._with_pixels(media, fit)

    def _media(self, record: Record, fit: Fit) -> ShownMedia:
        return ShownMedia(record, fit.shown(plan_films(record, self.processor)), self.digests)

    def _with_pixels(self, media: ShownMedia, fit: Fit) -> dict[str, Tensor]:
        images, films, vocabulary = media.decode(), media.show(), self.processor.vocabulary
        write = writing(self.processor, [image.size for image in images], media.films, fit.max_slice_nums)
        sample, tokens = self.comparison.encode(
            media.record,
            lambda turns: write(turns).encode(vocabulary, images, films),
            lambda turns: write(turns).tokens(vocabulary),
        )
        pixels = _pixels(sample.pixel_values, sample.tgt_sizes, self.processor.image_processor)
        return self._tokens(media, fit, tokens) | _times(sample.temporal_ids) | pixels

    def _tokens(self, media: ShownMedia, fit: Fit, tokens: Any) -> dict[str, Tensor]:
        item = _tokens(media.record, fit, tokens)
        if isinstance(tokens, Tokens) and self.scores is not None:
            try:
                item |= self.scores.describe(tokens, media.name_all(), fit.max_slice_nums)
            except KeyError:
                raise DataError([_unscored(media.record)]) from None
        return item

    def _tokens_without_pixels(self, media: ShownMedia, write: Write) -> Any:
        vocabulary = self.processor.vocabulary
        _, tokens = self.comparison.encode(
            media.record, lambda turns: write(turns).tokens(vocabulary), lambda turns: write(turns).tokens(vocabulary)
        )
        return tokens

    def is_scored(self, index: int) -> bool:
        """Return whether the reference's values of a record's answers are known; no image is decoded."""
        assert self.scores is not None, "asked only where there are scores"
        try:
            record = self.records[index]
            fit = self.fit(index, record)
            media = self._media(record, fit)
            sizes, seen = media.sizes, media.name_all()
        except DataError:  # whoever needs the record says so
            return False
        write = writing(self.processor, sizes, media.films, fit.max_slice_nums)
        return self.scores.has(self._tokens_without_pixels(media, write), seen, fit.max_slice_nums)

    def _encode_or_find(self, media: ShownMedia, fit: Fit, known: KnownFeatures) -> dict[str, Tensor]:
        """Encode a record with images or films, which are decoded only if their features are not all known."""
        write = writing(self.processor, media.sizes, media.films, fit.max_slice_nums)
        written = write(media.record.turns)
        entries = known.entries(media.name_each(), written, by_slice=bool(media.films))
        features = known.find(entries)
        if features is None:
            return self._with_pixels(media, fit) | known.describe_unknown(entries)
        tokens = self._tokens(media, fit, self._tokens_without_pixels(media, write))
        found = known.describe_known(features, written.layout.sizes(written.plans))
        return tokens | _times(written.layout.times(written.plans)) | found

    def check_lengths(
        self,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        kept: Entry | None = None,
        sharing: Sharing = ALONE,
    ) -> LengthReport:
        """Measure every record, from texts and image sizes alone, so that a run can stop before it starts.

        Records that are changed to fit are counted in the report and in a warning, which names the first. Those that do
        not fit are taken out of the data set if ``on_long_record`` is ``skip``.

        Args:
            on_progress: Called with the number of records measured and of all.
            kept: Where the result is recalled from, or kept, see ``token_counts.measure``.
            sharing: Processes of which each measures a part, likewise; the first one warns.

        Raises:
            DataError: Naming every record that does not fit.
        """
        total = len(self)
        left_out: dict[int, Sequence[Problem]] = {}
        for share in measure(self.fit, total, kept=kept, sharing=sharing):
            done = share.start + len(share.fits)
            if len(share.fits) == total:
                self._fits = share.fits
            else:
                self._fits[share.start : done] = share.fits
            left_out |= share.problems
            if on_progress is not None:
                on_progress(done, total)
        found = [problem for problems in left_out.values() for problem in problems]
        if found and (self.limits.on_long_record != "skip" or any(problem.code != TOO_LONG for problem in found)):
            raise DataError(found)
        named = {self.records[index].where(): problems for index, problems in left_out.items()}
        if left_out:
            keep = remaining(total, np.array([*left_out], np.int64), sharing)
            mine = part_of(len(keep), sharing)
            (fits,) = join([self._fits[keep[mine.start : mine.stop]]], sharing)
            self.records, self._fits = Selected(self.records, keep), fits
        return report_lengths(
            self._fits,
            self.limits,
            self.processor,
            left_out=named,
            where=(lambda index: self.records[index].where()) if sharing.rank == 0 else None,
        )

    def fit(self, index: int, record: Record | None = None) -> Fit:
        """Find how a record fits, once for each.

        Args:
            index: Position.
            record: The record, if it is at hand.

        Raises:
            DataError: It does not fit.
        """
        if not self._fits["length"][index]:
            record = self.records[index] if record is None else record
            sizes = record.image_sizes
            if sizes is None:
                sizes = tuple(load_picture(record, position).size for position in range(len(record.images)))
            self._fits[index] = fit_record(record, sizes, self.processor, self.limits, self.comparison)
        return Fit(*self._fits[index].item())

    def as_conversations(self) -> ConversationDataset:
        """Return the same records as conversations, which are learnt as they are: of two answers the better one."""
        limits = self.limits
        return ConversationDataset(
            self.records,
            self.processor,
            max_length=limits.max_length,
            max_slice_nums=limits.max_slice_nums,
            on_long_record=limits.on_long_record,
            truncate_answers=limits.truncate_answers,
        )

    def readable_records(self) -> Iterator[Record]:
        """Yield the records, passing over those that are bad where they are checked only when they are read."""
        for index in range(len(self)):
            try:
                yield self.records[index]
            except DataError as error:
                _logger.debug("passed over: %s", error)

    def _name(self, index: int, error: DataError) -> str:
        """Name a record that may be too bad to be made."""
        try:
            return self.records[index].where()
        except DataError:
            return error.problems[0].where


def _times(times: Sequence[tuple[int, int]] | None) -> dict[str, Tensor]:
    """Hold the times of slices, where the model is told any."""
    return {} if times is None else {"temporal_ids": torch.tensor(times, dtype=torch.int64).reshape(-1, 2)}


def _nothing(image_processor: MiniCPMVImageProcessor) -> dict[str, Tensor]:
    return {
        "input_ids": torch.zeros(0, dtype=torch.int64),
        "labels": torch.zeros(0, dtype=torch.int64),
        "image_mask": torch.zeros(0, dtype=torch.bool),
        **_pixels(np.zeros((0, 3 * image_processor.patch_size**2), np.uint8), [], image_processor),
    }


def _tokens(record: Record, fit: Fit, sample: Encoded) -> dict[str, Tensor]:
    if len(sample.input_ids) != fit.length + fit.num_cut:
        raise DataError([_resized(record)])
    tokens = {
        "input_ids": torch.tensor(sample.input_ids[: fit.length], dtype=torch.int64),
        "labels": torch.tensor(sample.labels[: fit.length], dtype=torch.int64),
        "image_mask": torch.tensor(sample.image_mask[: fit.length], dtype=torch.bool),
    }
    if sample.label_weights is not None:
        tokens["label_weights"] = torch.tensor(sample.label_weights[: fit.length], dtype=torch.float32)
    if sample.position_rows is not None:
        tokens["position_rows"] = torch.from_numpy(sample.position_rows[:, : fit.length])
    if isinstance(sample, Tokens):
        tokens["segments"] = torch.tensor(sample.segments, dtype=torch.int64)
    return tokens


def _pixels(
    patches: NDArray[np.uint8], sizes: Sequence[tuple[int, int]], image_processor: MiniCPMVImageProcessor
) -> dict[str, Tensor]:
    """Hold pixels as bytes, a quarter of what their values take on the way to the device, with what turns them into."""
    return {
        "pixel_values": torch.from_numpy(patches),
        "pixel_table": torch.from_numpy(image_processor.pixel_table()),
        "tgt_sizes": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
    }


def _unscored(record: Record) -> Problem:
    return Problem(
        code="D206",
        where=record.where(),
        found="no value of its answers under the reference, which were all computed before the first step",
        expected="a record, and images, as they were then",
        fix="restore what has changed since; or start again, which computes what is missing",
    )


def _resized(record: Record) -> Problem:
    expected = "the size it had when the data were checked"
    fix = "leave the image files alone during a run, and start again"
    return Problem("D203", record.where("image"), "an image of another size", expected, fix)
