"""Reads classes by their names in columns that Hugging Face ``datasets`` calls ``ClassLabel`` and keeps as numbers.

The names are in the features of a data set, which ``datasets`` also writes into its Arrow and Parquet files. Without
them a model would learn to answer with the place of a class in a list that it never sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

__all__ = ["Classes", "UnnamedClass", "find_classes", "name_classes", "read_classes"]

Classes = tuple[str, ...] | list["Classes"] | dict[str, "Classes"]
"""Names of a column's classes; or where they are in it: those of the entries of a list, or of some fields."""

_UNKNOWN = -1
"""Number by which ``datasets`` marks an unknown class."""


class UnnamedClass(int):
    """Marks the number of a class that has no name. It stays a number; ``checking`` refuses it where it is text.

    Args:
        number: The number.
        num_names: Number of classes with a name.
    """

    num_names: int

    def __new__(cls, number: int, num_names: int = 0) -> UnnamedClass:
        made = super().__new__(cls, number)
        made.num_names = num_names
        return made


def read_classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, Classes]:
    """Return the classes of each column that has some, from what ``datasets`` wrote into a table's schema."""
    try:
        info = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):  # no features, or none that this knows
        return {}
    found = find_classes(info)
    return found if isinstance(found, dict) else {}


def find_classes(feature: object) -> Classes | None:
    """Return where a feature has classes; None where it has none.

    Args:
        feature: As ``datasets.Features.to_dict`` spells it.

    >>> kind, number = {"names": ["cat", "dog"], "_type": "ClassLabel"}, {"dtype": "int64", "_type": "Value"}
    >>> find_classes({"kind": kind, "id": number})
    {'kind': ('cat', 'dog')}
    """
    if isinstance(feature, list):
        inner = find_classes(cast("list[object]", feature)[0]) if feature else None
        return None if inner is None else [inner]
    if not isinstance(feature, dict):
        return None
    fields = cast("dict[str, object]", feature)
    kind = fields.get("_type")
    if kind == "ClassLabel":
        names = fields.get("names")
        return tuple(map(str, cast("list[object]", names))) if isinstance(names, list) else None
    if isinstance(kind, str):
        return find_classes([fields["feature"]]) if "feature" in fields else None
    return {name: found for name, each in fields.items() if (found := find_classes(each)) is not None} or None


def name_classes(value: object, classes: Classes) -> object:
    """Return a value with names in place of the numbers of classes.

    The unknown class, -1, is None. Any other number that has no name is marked; anything that is no number stays.
    """
    if isinstance(classes, tuple):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return value
        number = int(value)
        if number == _UNKNOWN:
            return None
        return classes[number] if 0 <= number < len(classes) else UnnamedClass(number, len(classes))
    if isinstance(classes, list):
        is_list = isinstance(value, list | tuple)
        return [name_classes(each, classes[0]) for each in cast("Sequence[object]", value)] if is_list else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        return {key: name_classes(each, classes[key]) if key in classes else each for key, each in fields.items()}
    return value
