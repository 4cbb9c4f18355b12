"""Lets small tensors without data know what they would hold.

A fake tensor has a shape, a type and a device, and no numbers. Code asks some of them for numbers all the same:
lengths, sizes, masks. Each fake tensor here may therefore carry a *value*, a real tensor on the CPU that holds them; an
operation on tensors with values is also done on the values. What comes out of the networks has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils import _pytree as pytree

__all__ = ["Values"]

_MOST_WHOLE_NUMBERS = 2**20
"""Ids of patches and masks have values up to this many."""
_MOST_FRACTIONS = 2**16
"""Sine tables and pixels have none."""


class Values:
    """Keeps the values, which lie at the fake tensors themselves, and forgets those that are overwritten."""

    def __init__(self) -> None:
        self._spoilt: dict[int, Any] = {}  # by address; the storage is kept, or another might get its address

    def of(self, fake: Tensor) -> Tensor | None:
        """Return what a fake tensor holds; None if nobody knows."""
        value = cast("Tensor | None", getattr(fake, "known_value", None))
        if value is not None and value.untyped_storage().data_ptr() in self._spoilt:
            return None
        return value

    def keep(self, fake: Tensor, value: Tensor) -> None:
        """Let a fake tensor know what it holds, if that is little enough."""
        most = _MOST_FRACTIONS if value.is_floating_point() else _MOST_WHOLE_NUMBERS
        if value.numel() <= most and not value.requires_grad:
            cast("Any", fake).known_value = value

    def follow(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outcome: Any) -> None:
        """Do an operation on the values as well, or forget the values of what it has written into."""
        given = list(tensors_in((args, kwargs)))
        values = [self.of(each) for each in given]
        if any(value is None for value in values) or not _is_repeatable(operation):
            for written in _written(operation, args, kwargs):
                self._forget(written)
            return
        if not given and not _is_small(outcome):
            return
        result = self.compute(operation, args, kwargs)
        for fake, value in zip(tensors_in(outcome), tensors_in(result), strict=True):
            self.keep(fake, value)

    def compute(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do an operation on values alone."""
        real_args, real_kwargs = pytree.tree_map_only(Tensor, self.of, (args, dict(kwargs)))
        for name in ("device", "pin_memory"):
            real_kwargs.pop(name, None)
        with unset_fake_temporarily():
            return operation(*real_args, **real_kwargs)

    def _forget(self, fake: Tensor) -> None:
        value = self.of(fake)
        if value is not None and value.numel():
            storage = value.untyped_storage()
            self._spoilt[storage.data_ptr()] = storage


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists, tuples and dictionaries in order."""
    return (each for each in pytree.tree_leaves(tree) if isinstance(each, Tensor))


def _is_small(outcome: Any) -> bool:
    return all(each.numel() <= _MOST_WHOLE_NUMBERS for each in tensors_in(outcome))


def _is_repeatable(operation: Any) -> bool:
    is_random = torch.Tag.nondeterministic_seeded in operation.tags
    return operation.namespace == "aten" and not is_random and "empty" not in operation.__name__


def _written(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes into."""
    if not operation._schema.is_mutable:
        return
    for position, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(args[position] if position < len(args) else kwargs.get(argument.name))
