"""Words counts, sizes, durations and long lists for messages, reads the words of a switch, and suggests near names.

It knows nothing of what a message is about, and imports nothing of the package, so that every room may use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "FALSE",
    "TRUE",
    "counted",
    "format_bytes",
    "format_seconds",
    "hub_advice",
    "is_off",
    "is_on",
    "list_few",
    "name_few",
    "name_type",
    "nearest",
    "suggest",
]

TRUE, FALSE = ("true", "yes", "t", "y", "1", "on"), ("false", "no", "f", "n", "0", "off")
"""Words of a switch, in lower case."""
_FLAGS_OF_HUBS = ("hub", "use-hf", "use-modelscope")
_NOTHING = ("", "none")
"""Words that switch a setting off which otherwise holds a path or a number."""

_UNITS = ((2**30, "GiB", 2), (2**20, "MiB", 1), (2**10, "KiB", 0))


def counted(number: int, thing: str, things: str = "") -> str:
    """Write a number with its noun, in the plural unless it is one.

    Args:
        number: Any whole number.
        thing: The noun in the singular.
        things: Its plural; by default with an ``s``.

    >>> counted(1, "image"), counted(1200, "image"), counted(0, "batch", "batches")
    ('1 image', '1,200 images', '0 batches')
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def format_bytes(number: int) -> str:
    """Write a number of bytes in the unit that it fills.

    >>> format_bytes(3 * 2**30), format_bytes(64 * 2**20), format_bytes(2**15), format_bytes(100)
    ('3.00 GiB', '64.0 MiB', '32 KiB', '100 bytes')
    """
    for size, unit, digits in _UNITS:
        if number >= size:
            return f"{number / size:,.{digits}f} {unit}"
    return counted(number, "byte")


def format_seconds(seconds: float) -> str:
    """Write a duration with the precision that it is read with.

    >>> [format_seconds(seconds) for seconds in (0.042, 7, 99.4, 100, 5999, 6000, 90_000, 9e5, 3e8)]
    ['0.042 s', '7 s', '99 s', '2 min', '100 min', '1 h 40 min', '25 h 00 min', '10 days', '9.5 years']
    """
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, days = round(seconds / 60), seconds / 86_400
    if days >= 7:
        return f"{days / 365.25:.2g} years" if days >= 730 else f"{days:.0f} days"
    return f"{minutes} min" if seconds < 6000 else f"{minutes // 60} h {minutes % 60:02} min"


def name_few(names: Iterable[object], *, most: int = 5) -> str:
    """Join the first names of many, and say how many more there are.

    >>> name_few("abc", most=2), name_few("ab", most=2)
    ('a, b and 1 more', 'a, b')
    """
    written = [str(name) for name in names]
    hidden = len(written) - most
    return ", ".join(written[:most]) + (f" and {hidden:,} more" if hidden > 0 else "")


def list_few(lines: Sequence[str], *, most: int, indent: str = "") -> str:
    r"""Return the first lines of many, each on a line of its own, and say how many more there are.

    >>> list_few(["a", "b", "c"], most=1, indent="  ")
    '  a\n  ... and 2 more'
    """
    hidden = len(lines) - most
    more = [f"... and {hidden:,} more"] if hidden > 0 else []
    return "\n".join(f"{indent}{line}" for line in (*lines[:most], *more))


def is_on(text: str) -> bool:
    """Return whether a setting's text is a word that switches it on."""
    return text.strip().lower() in TRUE


def is_off(text: str) -> bool:
    """Return whether a setting's text is a word that switches it off; an empty text and ``none`` do as well."""
    return text.strip().lower() in (*FALSE, *_NOTHING)


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """Return the known names that a mistyped one may have meant, the nearest first; hyphen and underscore are equal."""
    names = {name.lower().replace("_", "-"): name for name in known}
    return [names[near] for near in difflib.get_close_matches(word.lower().replace("_", "-"), names, n=most)]


def hub_advice(flag: str) -> str | None:
    """Word the fix for a flag by which other tools choose a hub, which the name of a model says here; None for others.

    >>> hub_advice("--hub")
    "write the hub before a model's name: modelscope:owner/name; a plain owner/name is Hugging Face's"
    >>> hub_advice("--huh")
    """
    is_one = flag.lstrip("-").replace("_", "-") in _FLAGS_OF_HUBS
    said = "write the hub before a model's name: modelscope:owner/name; a plain owner/name is Hugging Face's"
    return said if is_one else None


def name_type(value: object) -> str:
    """Name what a value is, as a program knows it, with its article.

    >>> name_type(3), name_type("a"), name_type(None)
    ('an int', 'a str', 'None')
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeio' or name == 'ndarray' else 'a'} {name}"


def suggest(word: str, known: Iterable[str], *, otherwise: str, prefix: str = "", most: int = 1) -> str:
    """Word the fix for a mistyped name.

    Args:
        word: As typed.
        known: All names that exist.
        otherwise: The fix if none is near.
        prefix: Written before each name, such as ``--``.
        most: Names to suggest.

    >>> suggest("trian", ["train", "chat"], otherwise="choose one of them")
    'did you mean train?'
    >>> suggest("x", ["train", "chat"], otherwise="choose one of them")
    'choose one of them'
    """
    near = [f"{prefix}{name}" for name in nearest(word, known, most=most)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise
