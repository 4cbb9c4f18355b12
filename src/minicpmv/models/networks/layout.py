"""Where everything in a batch is, in numbers that the host knows: nothing on the device has to be asked for them.

Each question to the device is a wait for all that it was told to compute. Collators make the layout of a training batch
where it costs nothing, on the CPU, before the batch is moved. Where none comes along, the model reads it from its
arguments by the same function. What lies at the places is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from minicpmv.models.attention.branches import Branches
from minicpmv.models.attention.varlen import Lengths, never_compiled
from minicpmv.models.networks.loss import IGNORED

__all__ = ["Layout", "lay_out"]

# Shape letters in this file
#   B rows    T tokens of a row    M labelled tokens    S slices    G blocks of image tokens    Q tokens of a block

_READ_FROM = ("position_ids", "cu_seq_lens_q", "segments", "image_mask", "tgt_sizes", "temporal_ids", "known_slices")
"""What says nothing beyond the layout that is made of it."""
_CACHED = {"tower_features": "tower_features", "image_features": "known_tokens"}
"""Argument of a batch that holds known slices -> its name in the layout."""
_TENSORS = ("tower_features", "known_tokens", "image_places", "label_places", "label_sources")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Lengths, sizes and places of a batch. Places count through its rows, one after the other."""

    samples: Lengths | None = None
    """Tokens of each sample in packed rows, row after row; they sum to B * T. ``Branches`` where an answer continues a
    prompt that another sample begins with. None where each row is one sample."""
    ranks: tuple[int, ...] = ()
    """Of each sample, 1 if its answer is to become more likely, -1 if less likely, 0 if it has none. Empty where
    answers are not compared."""
    tokens_of_each: tuple[int, ...] = ()
    """Tokens of each sample without padding, packed or not; empty where padded rows came without their mask."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Rows and columns of each slice, in patches."""
    slots_of_each: tuple[int, ...] = ()
    """Image tokens of each sample."""
    times: tuple[tuple[int, int], ...] | None = None
    """For each slice, 1 where it opens a block of image tokens or 0 where it joins the slice before, and its time index
    or -1 (4.5). None where every slice has a block of its own and no time."""
    known: tuple[bool, ...] | None = None
    """For each slice, whether its features come along instead of its pixels; None where nothing is said of them."""
    tower_features: Tensor | None = None
    """(patches of the known slices, E), what the tower made of them, end to end. For 2.5 all slices of a sample are
    known, or none. None where nothing is known, or more than that:"""
    known_tokens: Tensor | None = None
    """(known slices, Q, D), or end to end where slices have unequal numbers: the image tokens of the known slices."""
    image_places: Tensor | None = None
    """(G * Q,) int64, the places of image tokens, in order; None without images."""
    label_places: Tensor | None = None
    """(M,) int64, the places of tokens that are trained; None without labels. The token before predicts each, or:"""
    label_sources: Tensor | None = None
    """(M,) int64, the place of the token that predicts each; None where it is the one before."""
    labels_of_each: tuple[int, ...] = ()
    """Trained tokens of each sample, or of each row; empty without labels."""
    label_weight: float = 0.0
    """What the labels weigh together: how many there are, where none has a weight."""

    @classmethod
    def read(
        cls,
        *,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        segments: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        tgt_sizes: Tensor | None = None,
        temporal_ids: Tensor | None = None,
        known_slices: Tensor | None = None,
        labels: Tensor | None = None,
        label_weights: Tensor | None = None,
    ) -> Layout:
        """Read a layout from the arguments that ``MiniCPMVForConditionalGeneration.forward`` describes.

        The host waits once for each of them that is on a device.

        Args:
            position_ids: (B, T) int64, of rows that nothing masks and no cache precedes. A sample begins wherever a
                position is not its predecessor's next.
            cu_seq_lens_q: (samples + 1,) int, the offsets of the samples in a single row. They count instead.
            segments: (samples, 4) int, of answers that are compared: tokens of each sample, the place of the first
                token that it continues and their number, 0 for none, and its rank. They count before all others.
            attention_mask: (B, T), 1 on real tokens. Needed for ``tokens_of_each`` alone.
            image_mask: (B, T) bool.
            tgt_sizes: (S, 2) int.
            temporal_ids: (S, 2) int.
            known_slices: (S,) bool.
            labels: (B, T) int64.
            label_weights: (B, T) float.

        Returns:
            The layout, on the device of ``labels`` or ``image_mask``.

        Raises:
            ValueError: The offsets do not rise from 0, or not to the row's end.
        """
        samples, ranks = _find_samples(position_ids, cu_seq_lens_q), ()
        if segments is not None:
            samples, ranks = _read_segments(segments.tolist())
        tokens_of_each = tuple(samples or ())
        if attention_mask is not None:
            tokens_of_each = tuple(attention_mask.sum(dim=1).tolist())
        elif samples is None and position_ids is not None:
            tokens_of_each = (position_ids.shape[1],) * len(position_ids)
        image_places, slots_of_each = None, ()
        if image_mask is not None:
            mask_BT = image_mask.cpu()
            image_places = mask_BT.flatten().nonzero().flatten().to(image_mask.device, non_blocking=True)
            parts = mask_BT.flatten().split(list(samples)) if samples is not None else mask_BT
            slots_of_each = tuple(int(part.sum()) for part in parts)
        label_places, label_sources, label_weight = None, None, 0.0
        labels_of_each: tuple[int, ...] = ()
        if labels is not None:
            label_places, label_weight = _find_labels(labels.cpu(), label_weights, samples)
            labels_of_each = _count_labels(label_places, samples, labels.shape)
            if isinstance(samples, Branches):
                label_sources = _find_sources(label_places, samples).to(labels.device, non_blocking=True)
            label_places = label_places.to(labels.device, non_blocking=True)
        return cls(
            samples=samples,
            ranks=ranks,
            tokens_of_each=tokens_of_each,
            sizes=() if tgt_sizes is None else tuple((rows, columns) for rows, columns in tgt_sizes.tolist()),
            slots_of_each=slots_of_each,
            times=None if temporal_ids is None else tuple((opens, time) for opens, time in temporal_ids.tolist()),
            known=None if known_slices is None else tuple(known_slices.tolist()),
            image_places=image_places,
            label_places=label_places,
            label_sources=label_sources,
            labels_of_each=labels_of_each,
            label_weight=label_weight,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """Return the same layout with its tensors on a device."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Layout:
        """Return the same layout with its tensors in memory from which they are copied without a wait."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Any) -> Layout:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(self, **{name: None if each is None else change(each) for name, each in tensors.items()})

    @never_compiled
    def position_ids(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Count the tokens of each sample in packed rows, from 0 or what it continues; int64 of a shape, (B, T)."""
        assert self.samples is not None, "rows are packed"
        offsets = self.samples.offsets(device).long()
        total = sum(self.samples)
        begins = offsets[:-1]
        if isinstance(self.samples, Branches):
            behind = torch.tensor([number for _, number in self.samples.prefixes])
            begins = begins - behind.to(device, non_blocking=True)
        starts = begins.repeat_interleave(offsets.diff(), output_size=total)
        return (torch.arange(total, device=device) - starts).view(*shape)


def lay_out(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Put a layout under ``layout``, in place of the tensors of a batch that it holds or that say nothing beyond it."""
    names = (*_READ_FROM, "attention_mask", "labels", "label_weights")
    layout = Layout.read(**{name: batch[name] for name in names if name in batch})
    taken = set(_READ_FROM)
    if layout.known is not None:
        layout = replace(layout, **{_CACHED[name]: batch[name] for name in _CACHED.keys() & batch.keys()})
        taken |= _CACHED.keys()
    return {name: value for name, value in batch.items() if name not in taken} | {"layout": layout}


def _find_samples(position_ids: Tensor | None, offsets: Tensor | None) -> Lengths | None:
    """Return the tokens of each sample in packed rows; None where every row is one sample."""
    if offsets is not None:
        return _check_offsets(offsets.tolist(), position_ids)
    if position_ids is None:
        return None
    places_BT = position_ids.cpu()
    starts_BT = torch.ones_like(places_BT, dtype=torch.bool)
    starts_BT[:, 1:] = places_BT.diff(dim=1) != 1
    edges = starts_BT.flatten().nonzero().flatten().tolist()
    if len(edges) == len(places_BT):
        return None
    return Lengths([end - start for start, end in pairwise([*edges, starts_BT.numel()])])


def _read_segments(segments: list[list[int]]) -> tuple[Lengths, tuple[int, ...]]:
    """Return the tokens of each sample, as branches where one continues another, and their ranks."""
    lengths, prefixes = [each[0] for each in segments], [(each[1], each[2]) for each in segments]
    is_branched = any(number for _, number in prefixes)
    return Branches(lengths, prefixes) if is_branched else Lengths(lengths), tuple(each[3] for each in segments)


def _count_labels(places_M: Tensor, samples: Lengths | None, shape: Sequence[int]) -> tuple[int, ...]:
    """Count the trained tokens of each sample, or of each row."""
    ends = torch.tensor(list(accumulate(samples))) if samples is not None else torch.arange(1, shape[0] + 1) * shape[1]
    number_M = torch.bucketize(places_M, ends, right=True)
    return tuple(torch.bincount(number_M, minlength=len(ends)).tolist())


def _find_sources(places_M: Tensor, samples: Branches) -> Tensor:
    """Return the places of the tokens that predict those at some places: of a branch's first, the last it continues."""
    before = {
        start: first + number - 1
        for start, (first, number) in zip(samples.starts, samples.prefixes, strict=True)
        if number
    }
    return torch.tensor([before.get(place, place - 1) for place in places_M.tolist()], dtype=torch.int64)


def _check_offsets(offsets: list[int], position_ids: Tensor | None) -> Lengths | None:
    lengths = [end - start for start, end in pairwise(offsets)]
    end = offsets[-1] if position_ids is None else position_ids.numel()
    if (
        offsets[0] != 0
        or offsets[-1] != end
        or min(lengths) < 1
        or (position_ids is not None and len(position_ids) != 1)
    ):
        raise ValueError(f"cu_seq_lens_q is {offsets}, expected offsets that rise from 0 to the end of a single row")
    return Lengths(lengths) if len(lengths) > 1 else None


def _find_labels(labels_BT: Tensor, weights_BT: Tensor | None, samples: Lengths | None) -> tuple[Tensor, float]:
    """Return the places of labels that are trained, and what they weigh; the first token of a sample never is."""
    labelled_BT = labels_BT != IGNORED
    labelled_BT[:, 0] = False
    if samples is not None:
        starts = samples.offsets(labels_BT.device)[:-1].long()
        if isinstance(samples, Branches):
            starts = starts[torch.tensor([number == 0 for _, number in samples.prefixes])]
        labelled_BT.view(-1)[starts] = False
    if weights_BT is None:
        places = labelled_BT.flatten().nonzero().flatten()
        return places, float(len(places))
    weights = weights_BT.to("cpu", torch.float32)
    weight = float(weights[labelled_BT].sum())
    return (labelled_BT & (weights != 0)).flatten().nonzero().flatten(), weight
