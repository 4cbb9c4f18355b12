"""Branches of a row: sequences that continue an earlier part of it, such as two answers behind one prompt.

The prompt is computed once. What must look back from a branch gathers the prompt in front of it: attention its keys and
values, layers that carry a state what the state is made of. A branch never sees another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from minicpmv.models.attention.varlen import Lengths, never_compiled

__all__ = ["Branches"]


class Branches(Lengths):
    """Tokens of each sequence, and which part of the row each of them continues.

    >>> rows = Branches([5, 2], prefixes=[(0, 0), (0, 3)])  # prompt of 3 with an answer of 2, then another answer of 2
    >>> list(rows.keys)
    [5, 5]
    >>> rows.key_places(torch.device("cpu")).tolist()
    [0, 1, 2, 3, 4, 0, 1, 2, 5, 6]

    Args:
        of_each: Tokens of each sequence, end to end.
        prefixes: For each sequence, place of the first token that it continues, and their number; 0 for none.
    """

    def __init__(self, of_each: Sequence[int], prefixes: Sequence[tuple[int, int]]) -> None:
        super().__init__(of_each)
        starts = [0, *accumulate(of_each)]
        for (first, number), start in zip(prefixes, starts[:-1], strict=True):
            assert 0 <= first <= first + number <= start, "a branch continues what stands before it"
        self.prefixes = tuple(prefixes)
        self.keys = Lengths([number + own for (_, number), own in zip(prefixes, of_each, strict=True)])
        """Tokens that the last query of each sequence sees."""
        self._places: dict[tuple[str, torch.device], Tensor] = {}

    @property
    def starts(self) -> list[int]:
        """Place of the first token of each sequence."""
        return [0, *accumulate(self)][:-1]

    @never_compiled
    def key_places(self, device: torch.device) -> Tensor:
        """Say which token each key is, (all keys,) int64; made once for each device."""
        return self._once("keys", device)

    @never_compiled
    def query_places(self, device: torch.device) -> Tensor:
        """Say where each token lies among the keys of its own sequence, (all tokens,) int64."""
        return self._once("queries", device)

    def _once(self, name: str, device: torch.device) -> Tensor:
        if (name, device) not in self._places:
            own = [range(start, start + number) for start, number in zip(self.starts, self, strict=True)]
            if name == "keys":
                parts = zip(self.prefixes, own, strict=True)
                places = [place for (first, number), each in parts for place in (*range(first, first + number), *each)]
            else:
                ends = accumulate(self.keys)
                places = [place for end, each in zip(ends, own, strict=True) for place in range(end - len(each), end)]
            # Made under inference_mode, they could not be kept for a backward pass later.
            with torch.inference_mode(False):
                self._places[name, device] = torch.tensor(places, dtype=torch.int64).to(device, non_blocking=True)
        return self._places[name, device]
