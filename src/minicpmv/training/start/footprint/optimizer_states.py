"""Computes the bytes of state that an optimizer keeps for each trained parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minicpmv.errors import UsageError

__all__ = ["Trained", "state_bytes", "step_bytes"]

_FLOAT32 = 4
_BLOCK = 256
"""Number of parameters that share a 4-byte scale, in bitsandbytes and torchao."""
_SMALLEST_8BIT = 4096
"""Smallest tensor, in parameters, whose state is quantized. Default of bitsandbytes and torchao."""


class Trained(NamedTuple):
    """A trained tensor."""

    shape: tuple[int, ...]
    is_embedding: bool
    """Whether it is an embedding, whose state transformers makes bitsandbytes keep in float32."""

    @property
    def size(self) -> int:
        """Number of values."""
        number = 1
        for side in self.shape:
            number *= side
        return number


# Prefix of a name -> state values per weight, and bits of each. The first match counts.
_STATES: tuple[tuple[str, int, int], ...] = (
    ("adamw_torch_8bit", 2, 8),
    ("adamw_torch_4bit", 2, 4),
    ("adamw_torch", 2, 32),
    ("adamw_bnb_8bit", 2, 8),
    ("adamw_8bit", 2, 8),
    ("paged_adamw_8bit", 2, 8),
    ("paged_adamw", 2, 32),
    ("ademamix_8bit", 3, 8),
    ("paged_ademamix_8bit", 3, 8),
    ("ademamix", 3, 32),
    ("paged_ademamix", 3, 32),
    ("lion_8bit", 1, 8),
    ("paged_lion_8bit", 1, 8),
    ("lion", 1, 32),
    ("paged_lion", 1, 32),
    ("rmsprop_bnb_8bit", 1, 8),
    ("rmsprop", 1, 32),
    ("adagrad", 1, 32),
    ("sgd", 0, 32),
)
_BITSANDBYTES = ("adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb")


def state_bytes(name: str, trained: Sequence[Trained]) -> int:
    """Add up an optimizer's state.

    Raises:
        UsageError: The state of this optimizer is not known here.
    """
    if name == "adafactor":  # one value for each row and each column
        return sum(
            _FLOAT32 * (each.size if len(each.shape) < 2 else each.size // each.shape[-1] + each.size // each.shape[-2])
            for each in trained
        )
    row = next((row for row in _STATES if name.startswith(row[0])), None)
    if row is None:
        known = ", ".join(dict.fromkeys(start for start, _, _ in _STATES))
        raise UsageError(
            f"--optim: found {name!r}, whose memory is not known here, expected one that starts with {known}, or "
            "adafactor\n  fix: estimate with one of them"
        )
    _, number, bits = row
    return sum(_bytes_of(each, number, bits, whole=_stays_whole(name, each)) for each in trained)


def _bytes_of(tensor: Trained, number: int, bits: int, *, whole: bool) -> int:
    if bits == 32 or whole:
        return number * tensor.size * _FLOAT32
    return number * (tensor.size * bits // 8 + tensor.size // _BLOCK * _FLOAT32)


def _stays_whole(name: str, tensor: Trained) -> bool:
    return tensor.size < _SMALLEST_8BIT or (tensor.is_embedding and name.startswith(_BITSANDBYTES))


def step_bytes(name: str, trained: Sequence[Trained]) -> int:
    """Count the bytes that an optimizer needs in addition to its state during a step."""
    if name.endswith("_fused") or name.startswith((*_BITSANDBYTES, "adamw_torch_8bit", "adamw_torch_4bit")):
        return 0
    if name == "adafactor":  # the squared gradient of one matrix at a time
        return _FLOAT32 * max((each.size for each in trained), default=0)
    return _FLOAT32 * sum(each.size for each in trained)  # torch's other optimizers process all tensors at once
