"""Reports the tokens of a data set, before any picture is decoded, and warns of records that are changed to fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.samples.length_policy import Fit, Limits
from minicpmv.data.sources.skipping import Skipped
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.wording import counted

__all__ = ["LengthReport", "patches_per_token", "report_lengths"]

_logger = logging.getLogger(__name__)

_LARGEST_SLICE = 1.1
"""Patches of the largest slice, for each of a square one: sides are rounded to whole patches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthReport:
    """Reports the tokens of a data set, as they are trained. Its arrays may be columns of what all processes share."""

    lengths: NDArray[np.int32]
    """Tokens of each record as trained."""
    num_trained: NDArray[np.int32]
    """Number of tokens with a label of any weight."""
    num_image_tokens: NDArray[np.int32]
    """Number of image slots among all tokens."""
    num_patches: NDArray[np.int32]
    """Number of patches of all slices of all images and frames."""
    patches_per_token: float | None
    """Patches for each image token of a picture, where frames of films may have more (4.5); None where none has."""
    num_reduced: int
    """Records whose images get fewer slices."""
    num_thinned: int
    """Records whose films show fewer frames, or more of them in a block."""
    num_cut: int
    """Records whose last answer loses its end."""
    left_out: Skipped
    """Records that did not fit and were removed from the data set, by name."""

    def part(self, which: range) -> LengthReport:
        """Return the same of neighbouring records alone, but for the counts of all."""
        start, stop = which.start, which.stop
        return replace(
            self,
            lengths=self.lengths[start:stop],
            num_trained=self.num_trained[start:stop],
            num_image_tokens=self.num_image_tokens[start:stop],
            num_patches=self.num_patches[start:stop],
        )


def report_lengths(
    fits: NDArray[np.void],
    limits: Limits,
    processor: MiniCPMVProcessor,
    *,
    left_out: Skipped,
    where: Callable[[int], str] | None,
) -> LengthReport:
    """Report how records fit; a warning counts those that are changed, and names the first.

    Args:
        fits: [N] of type ``token_counts.FIT``, of each record that stays.
        limits: What they fit into.
        processor: The checkpoint's.
        left_out: Those that do not stay.
        where: Names a record by its position; None: another process warns.
    """
    is_thinned = (fits["max_frames"] > 0) | (fits["group"] > 0)
    changes = [
        (
            (fits["wanted"] - fits["num_cut"] > fits["length"]) & ~is_thinned,
            "get fewer slices per image",
            "A larger --model_max_length keeps all slices",
        ),
        (
            is_thinned,
            "show fewer frames of their films, taken evenly, or more frames in a block",
            "A larger --model_max_length, or a lower --video_fps or --max_frames, shows what is asked for",
        ),
        (
            fits["num_cut"] > 0,
            "lose the end of their last answer",
            "A larger --model_max_length keeps all text",
        ),
    ]
    for concerned, what, remedy in changes if where is not None else ():
        assert where is not None, "asked above"
        _warn(fits, concerned, what, remedy, limits, where)
    num_reduced, num_thinned, num_cut = (int(concerned.sum()) for concerned, _, _ in changes)
    return LengthReport(
        lengths=fits["length"],
        num_trained=fits["num_trained"],
        num_image_tokens=fits["num_image_tokens"],
        num_patches=fits["num_patches"],
        patches_per_token=patches_per_token(processor),
        num_reduced=num_reduced,
        num_thinned=num_thinned,
        num_cut=num_cut,
        left_out=left_out,
    )


def patches_per_token(processor: MiniCPMVProcessor) -> float | None:
    """Return the patches for each image token of a picture, where frames of films may have more (4.5); else None."""
    if not processor.version.reading.temporal:
        return None
    images = processor.image_processor
    return _LARGEST_SLICE * (images.scale_resolution / images.patch_size) ** 2 / processor.query_num


def _warn(
    fits: NDArray[np.void],
    concerned: NDArray[np.bool_],
    what: str,
    remedy: str,
    limits: Limits,
    where: Callable[[int], str],
) -> None:
    positions = np.flatnonzero(concerned)
    if not len(positions):
        return
    first = int(positions[0])
    fit = Fit(*fits[first].item())
    _logger.warning(
        "%d of %d records exceed %d tokens and %s, the first of them %s: %d tokens become %d%s. %s.",
        len(positions),
        len(fits),
        limits.max_length,
        what,
        where(first),
        fit.wanted,
        fit.length,
        "" if fit.num_cut else _describe(fit),
        remedy,
    )


def _describe(fit: Fit) -> str:
    """Say with which limits a record fits."""
    if not fit.max_frames:
        return f" with max_slice_nums {fit.max_slice_nums}"
    group = f", {fit.group} in a block" if fit.group > 1 else ""
    return f" with at most {counted(fit.max_frames, 'frame')} of each film{group}"
