"""Plans which records share a padded batch: neighbours in order, or records of similar length to reduce padding.

It knows no torch and no data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from minicpmv.data.batches.plan import Indices, Rows, draw_order
from minicpmv.errors import ConfigError

__all__ = ["BatchPlanner", "LengthGrouper"]

_STEPS_SORTED = 50
"""Steps of shuffled records that are sorted by length together: enough for neighbours to be similar, and few enough for
batches to differ from epoch to epoch."""


class BatchPlanner:
    """Plans the padded batches of every epoch, from the epoch's number alone.

    Every record is in one batch of an epoch. In the last step, batches may be smaller, or empty if fewer records than
    processes are left.

    Args:
        num_records: Number of records.
        batch_size: Records in a batch.
        num_ranks: Number of processes; each has one batch of a step.
        seed: Seed of the order.
        shuffle: Whether records come in a new order in every epoch, or always in the original one.
        drop_last: Whether to leave out the last step if its batches are not full.

    Raises:
        ConfigError: No record is left to train on.
    """

    def __init__(
        self,
        num_records: int,
        *,
        batch_size: int,
        num_ranks: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self._step = batch_size * num_ranks
        if drop_last and num_records < self._step:
            raise ConfigError(
                f"--dataloader_drop_last true: found {num_records} records, fewer than the {self._step} of the only "
                "step, which would be dropped, expected at least as many\n"
                "  fix: remove the flag, or make the batches smaller"
            )
        if not num_records:
            raise ConfigError("batches: found no record, expected at least one\n  fix: add records")
        self._num_all = num_records
        self._batch_size = batch_size
        self._num_ranks = num_ranks
        self._seed = seed
        self._shuffle = shuffle
        self.num_records = num_records // self._step * self._step if drop_last else num_records
        """Return the records of every epoch, each in one batch."""

    @property
    def num_rows(self) -> int:
        """Return the number of batches of every epoch."""
        return -(-self.num_records // self._step) * self._num_ranks

    def rows(self, epoch: int) -> Rows:
        """Plan an epoch; process r of R takes batches r, r + R, r + 2R and so on."""
        order = self._order(epoch)[: self.num_records]
        cut = len(order) // self._step * self._step
        # Records r, r + R, r + 2R of a step make the batch of process r, so that the last ones are distributed evenly.
        full = order[:cut].reshape(-1, self._batch_size, self._num_ranks).swapaxes(1, 2).ravel()
        last = [order[cut + rank :: self._num_ranks] for rank in range(self._num_ranks)] if cut < len(order) else []
        sizes = np.full(self.num_rows, self._batch_size)
        if last:
            sizes[-self._num_ranks :] = [len(batch) for batch in last]
        return Rows.of_sizes(np.concatenate([full, *last]), sizes)

    def own_rows(self, epoch: int) -> None:
        """Return None: each process plans the batches of all, since that is quick; see ``RowPlanner.own_rows``."""

    def _order(self, epoch: int) -> Indices:
        if self._shuffle:
            return draw_order(self._num_all, seed=self._seed, epoch=epoch)
        return np.arange(self._num_all, dtype=np.int32)


class LengthGrouper(BatchPlanner):
    """Plans padded batches of records of similar length, in shuffled order; the batches of a step are similar, too.

    Args:
        lengths: Tokens of each record.
        batch_size: Records in a batch.
        num_ranks: Number of processes; each has one batch of a step.
        seed: Seed of the order.
        drop_last: Whether to leave out the last step if its batches are not full.

    Raises:
        ConfigError: No record is left to train on.
    """

    def __init__(
        self, lengths: npt.ArrayLike, *, batch_size: int, num_ranks: int = 1, seed: int = 0, drop_last: bool = False
    ) -> None:
        self._lengths = np.asarray(lengths, np.int32)
        super().__init__(len(self._lengths), batch_size=batch_size, num_ranks=num_ranks, seed=seed, drop_last=drop_last)

    def _order(self, epoch: int) -> Indices:
        shuffled = super()._order(epoch)
        num_steps = len(shuffled) // self._step
        order = shuffled[: num_steps * self._step]  # the rest makes the last step, unsorted
        # By length within each block of records; a stable sort by block then puts the blocks one after the other.
        blocks = np.arange(len(order), dtype=np.int32) // (self._step * _STEPS_SORTED)
        order = order[np.lexsort((self._lengths[order], blocks))].reshape(num_steps, self._step)
        steps = np.random.default_rng([self._seed, epoch, 1]).permutation(num_steps)
        return np.concatenate([order[steps].ravel(), shuffled[order.size :]])
