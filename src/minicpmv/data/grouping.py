"""Which records share a padded batch, so that little is padded: those of nearly the same length. No torch, no data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["LengthGrouper"]

_STEPS_SORTED = 50
"""Steps of shuffled records that are sorted by length together: enough for neighbours to be alike, and few enough for
batches to differ from epoch to epoch."""


class LengthGrouper:
    """Plans the padded batches of every epoch, from its number alone.

    Every record is in one batch of an epoch. In the last step some batches may be smaller, or empty where fewer records
    than processes are left.

    Args:
        lengths: Tokens of each record.
        batch_size: Records of a batch.
        num_ranks: Processes; the batches of a step are of like length, too.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, num_ranks: int = 1, seed: int = 0) -> None:
        self._lengths = np.asarray(lengths)
        self._step = batch_size * num_ranks
        self._num_ranks = num_ranks
        self._seed = seed

    @property
    def num_rows(self) -> int:
        """Batches of every epoch."""
        return -(-len(self._lengths) // self._step) * self._num_ranks

    def rows(self, epoch: int) -> list[list[int]]:
        """Plan an epoch; process r of R takes batches r, r + R, r + 2R and so on."""
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        lengths = self._lengths[order]
        # By length within each block of records; a stable sort by block then puts the blocks one after the other.
        blocks = np.arange(len(order)) // (self._step * _STEPS_SORTED)
        order = order[np.lexsort((lengths, blocks))].tolist()
        steps = [order[start : start + self._step] for start in range(0, len(order), self._step)]
        ranks = range(self._num_ranks)
        return [steps[i][rank :: self._num_ranks] for i in generator.permutation(len(steps)) for rank in ranks]
