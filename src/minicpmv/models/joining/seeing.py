"""Makes image tokens of the pictures of a batch: tower and connector, on what was not seen before.

Every rank and every batch runs the same modules, one without pictures on the smallest there is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor

from minicpmv.models.attention.varlen import never_compiled
from minicpmv.models.joining.parts import HasParts
from minicpmv.models.networks.cached_slices import is_sharded, join_in_order, left_to_see
from minicpmv.models.networks.layout import Layout

__all__ = ["SeesPictures"]

# Shape letters in this file
#   B rows    T tokens    P patches of all slices    S slices    G blocks of image tokens    Q tokens of a block
#   D language width    E vision width


class SeesPictures(HasParts):
    """Makes image tokens."""

    # The shapes of its slices are data.
    @never_compiled
    def get_image_features(
        self,
        pixel_values: Tensor | None,
        tgt_sizes: Tensor,
        slices_per_sample: list[int] | None = None,
        temporal_ids: Tensor | None = None,
        pixel_table: Tensor | None = None,
    ) -> Tensor:
        """Run tower and resampler.

        Args:
            pixel_values: (P, 588), flattened patches of all slices, end to end. Float, or uint8 with ``pixel_table``.
            tgt_sizes: (S, 2), rows and columns of each slice in patches. Int.
            slices_per_sample: Slices of each sample; one sample if not given. Matters for 2.5 only.
            temporal_ids: (S, 2) int, see :meth:`forward`.
            pixel_table: (3, 256) float, see :meth:`forward`.

        Returns:
            (G, Q, D), the tokens of each block: one for each slice, or for each group of frames. Where slices have
            unequal numbers of tokens (``TokenRule.is_uneven``) these are end to end, (all tokens, D).

        Raises:
            ValueError: The sizes do not add up to the number of patches, ``temporal_ids`` do not fit, or
                ``pixel_values`` are bytes without their table.
        """
        layout = Layout.read(tgt_sizes=tgt_sizes, temporal_ids=temporal_ids)
        counts = slices_per_sample or [len(layout.sizes)]
        return self._run_vision(pixel_values, layout, counts, pixel_table)

    def _run_vision(
        self,
        pixel_values: Tensor | None,
        layout: Layout,
        slices_per_sample: Sequence[int],
        pixel_table: Tensor | None = None,
    ) -> Tensor:
        """Run tower and resampler as :meth:`get_image_features` does, the tower on slices that are not known alone."""
        sizes, times = layout.sizes, layout.times
        if times is not None and not self.config.minicpmv_version.reading.temporal:
            raise ValueError(f"temporal_ids came to {self.config.minicpmv_version.model}, which has no time")
        tower_features, known = layout.tower_features, layout.known or [False] * len(sizes)
        unseen, counts = left_to_see(known, sizes, slices_per_sample)
        num_patches = sum(rows * columns for rows, columns in unseen)
        num_given = 0 if pixel_values is None else len(pixel_values)
        if num_patches != num_given:
            raise ValueError(f"tgt_sizes describe {num_patches} patches, pixel_values hold {num_given}")
        if tower_features is None:
            if any(known):
                raise ValueError("the layout has known slices without tower_features or known_tokens")
            seen_PE = self.tower(pixel_values, sizes, counts, pixel_table)
            return self.connector(seen_PE, self.sizes_seen(sizes), times)
        seen_PE = None
        if unseen:
            seen_PE = self.tower(pixel_values, unseen, counts, pixel_table)
        elif is_sharded(self.tower):  # another rank may run it, and would wait for this one
            self.tower(self._blank(tower_features.device), [self.blank_size], [1])
        left = self.sizes_seen(sizes)
        rows = [rows * columns for rows, columns in left]
        return self.connector(join_in_order(known, rows, tower_features, seen_PE), left, times)

    def sizes_seen(self, sizes: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Return the rows and columns of what the tower makes of slices: where it merges none, those of the slices."""
        return sizes

    @never_compiled
    def _see(self, layout: Layout, pixel_values: Tensor | None, pixel_table: Tensor | None = None) -> Tensor:
        """Image tokens of a batch, (G, Q, D)."""
        if not layout.sizes or layout.image_places is None:
            raise ValueError("pixel_values came without tgt_sizes or image_mask; pass all that the processor returned")
        counts, known_GQD = self._count_slices(layout), layout.known_tokens
        if known_GQD is None:
            return self._run_vision(pixel_values, layout, counts, pixel_table)
        if layout.known is None or layout.times is not None:
            raise ValueError("the layout has known_tokens without known slices, or with times")
        unseen, counts = left_to_see(layout.known, layout.sizes, counts)
        seen_GQD = None
        if unseen:
            seen_GQD = self._run_vision(pixel_values, Layout(sizes=tuple(unseen)), counts, pixel_table=pixel_table)
        elif is_sharded(self.tower):
            self._see_nothing(known_GQD.device)
        rule = self.config.token_rule
        rows = [rule.count(size) if rule.is_uneven else 1 for size in layout.sizes]
        return join_in_order(layout.known, rows, known_GQD, seen_GQD)

    def _count_slices(self, layout: Layout) -> list[int]:
        """Count the slices of each sample, from how many image tokens it has."""
        rule = self.config.token_rule
        if layout.times is not None:  # slots do not tell a sample's slices, and nothing depends on its sample
            return [len(layout.sizes)]
        if not rule.is_uneven:
            return [slots // rule.query_num for slots in layout.slots_of_each]
        ends = list(accumulate(rule.count(size) for size in layout.sizes))
        slices = [bisect_right(ends, slots) for slots in accumulate(layout.slots_of_each)]
        return [end - start for start, end in pairwise([0, *slices])]

    def _see_nothing(self, device: torch.device) -> Tensor:
        """Zero, by way of tower and resampler.

        Engines that shard or synchronise parameters wait for ever if one rank skips a module that another one runs.
        """
        features_GQD = self._run_vision(self._blank(device), Layout(sizes=(self.blank_size,)), [1])
        return 0.0 * features_GQD.sum()

    @property
    def blank_size(self) -> tuple[int, int]:
        """Rows and columns of the smallest picture."""
        side = self.config.token_rule.side or 1
        return side, side

    def _blank(self, device: torch.device) -> Tensor:
        """Patches of the smallest picture, (P, 588)."""
        # From the config: reading a weight's shape would make ZeRO-3 gather it on this rank alone.
        width = 3 * cast("int", self.config.vision_config.patch_size) ** 2
        return torch.zeros(self.blank_size[0] * self.blank_size[1], width, device=device)
