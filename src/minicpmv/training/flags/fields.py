"""What is declared about a setting beside its value: type, help, group, range, and what resuming asks of it.

It decides nothing: the rows are in ``declarations`` and ``catalogue``, the refusals in ``contradictions``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Literal, cast, get_args

__all__ = [
    "COUNT",
    "COUNT_OR_NONE",
    "EVERY",
    "FRACTION",
    "GROUPS",
    "MOST_COUNTED",
    "NOT_NEGATIVE",
    "PART",
    "POSITIVE",
    "SEED",
    "Group",
    "Kind",
    "Range",
    "Resume",
    "Setting",
    "declare",
    "list_of",
    "read_kind",
    "setting_of",
    "switch",
]

Group = Literal[
    "Model",
    "Data",
    "What learns",
    "Preferences",
    "LoRA",
    "Batches and length",
    "Precision and memory",
    "Schedule and optimizer",
    "Evaluation",
    "Saving and resuming",
    "Machine and processes",
    "Logging",
    "Others of transformers",
]
GROUPS: tuple[Group, ...] = get_args(Group)
"""In the order of ``--help``."""

Resume = Literal["same", "content", "length", "machine", "free"]
"""What a resumed run must have in common with the run that wrote its checkpoint.

``same``: the value, because it decides numbers. ``content``: what the value names or leads to, which is compared
instead of the value. ``length``: nothing, but a change is reported, because the schedule depends on it. ``machine``:
nothing here; it says where and with how many processes the run computes, of which ``resume`` compares the number and
the engine. ``free``: nothing.
"""

MOST_COUNTED = 2**31 - 1
"""More than any run counts; a larger number does not fit the integers that it is stored in."""
_MOST = 3e38
"""More than any rate, decay or norm, and about the largest number of float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers between two ends."""

    least: float = 0
    most: float = _MOST
    without_least: bool = False
    without_most: bool = False
    is_step: bool = False
    """Whether a number below 1 is a share of the run, and one from 1 on a number of steps, which is whole."""
    instead: str = ""
    """What a user who gave a smaller number may have wanted."""

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; NaN is in none."""
        above = value > self.least if self.without_least else value >= self.least
        below = value < self.most if self.without_most else value <= self.most
        return above and below and not (self.is_step and value > 1 and value != math.floor(value))

    def describe(self, value: float) -> str:
        """Say what is expected instead of a number that is not in the range."""
        if not math.isfinite(value):
            return f"a finite number, {self}"
        if value > self.most and self.is_open:
            return f"at most {self.most:,.0f}" if self.most == MOST_COUNTED else f"at most {self.most:g}"
        return str(self)

    def example(self, *, is_whole: bool = False, instead_of: float = 0) -> str:
        """Name a number of the range, for a message: the largest, if the given one was larger and there is one.

        >>> Range(least=1).example(), FRACTION.example(), POSITIVE.example(), EVERY.example()
        ('1', '0.5', '0.0001', '100')
        >>> POSITIVE.example(is_whole=True), Range(least=0, most=9).example(is_whole=True)
        ('1', '1')
        >>> Range(least=1, most=9).example(is_whole=True, instead_of=10), Range(most=240, without_least=True).example()
        ('9', '1')
        """
        if self.is_step:
            return "100"
        if instead_of > self.most > 1 and not (self.is_open or self.without_most):
            return f"{self.most:.0f}" if is_whole else f"{self.most:g}"
        if is_whole:
            return f"{max(self.least, 1):g}"
        if self.without_least:
            return "0.0001" if self.is_open else f"{min(self.least + 1, (self.least + self.most) / 2):g}"
        if self.least == 0 and self.is_open:
            return "0.0001"  # 0 would be allowed, and do nothing
        return "0.5" if self.most == 1 and self.least == 0 else f"{self.least:g}"

    @property
    def is_open(self) -> bool:
        """Whether the upper end is only what can be stored."""
        return self.most in (_MOST, MOST_COUNTED)

    def __str__(self) -> str:
        if self.is_step:
            return f"a whole number of at least 1, or a share of the run {'above' if self.without_least else 'from'} 0"
        if self.is_open:
            return f"more than {self.least:g}" if self.without_least else f"at least {self.least:g}"
        if self.without_least:
            return f"more than {self.least:g} and {'below' if self.without_most else 'at most'} {self.most:g}"
        if self.most < MOST_COUNTED:
            return f"{self.least:g} to {'below ' if self.without_most else ''}{self.most:g}"
        return f"{self.least:g} to {self.most:,.0f}"


COUNT = Range(least=1, most=MOST_COUNTED)
COUNT_OR_NONE = Range(least=0, most=MOST_COUNTED)
EVERY = Range(most=MOST_COUNTED, without_least=True, is_step=True)
FRACTION = Range(most=1)
NOT_NEGATIVE = Range()
PART = Range(most=1, without_most=True)
POSITIVE = Range(without_least=True)
SEED = Range(least=0, most=2**32 - 1)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting holds."""

    of: Literal["truth", "truth or word", "whole number", "number", "text", "object"]
    """``object`` is one in JSON that transformers does not read from a text itself."""
    is_list: bool = False
    """Whether several words may follow the flag."""
    choices: tuple[str, ...] = ()
    """The only texts that are allowed; empty: any. Of ``truth or word`` the words besides true and false."""
    refused: tuple[str, ...] = field(default=(), repr=False)
    """Texts besides ``choices`` that transformers has, and that are refused later, with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One flag of a run."""

    name: str
    kind: Kind
    default: Any
    """None also where transformers computes it."""
    help: str
    group: Group
    resume: Resume
    range: Range | None = None
    """Of a number; None: any finite one."""
    bare: str | None = None
    """What the flag means without a value; None: it needs one, unless it is a switch."""
    default_in_words: str = ""
    """Of a default that depends on the machine or on other settings."""


def declare(
    default: Any, text: str, *, group: Group, resume: Resume, range: Range | None = None, bare: str | None = None
) -> Any:
    """Make the dataclass field of a setting."""
    stated = {"help": text, "group": group, "resume": resume, "range": range, "bare": bare}
    return field(default=default, metadata=stated)


def switch(text: str, *, group: Group, resume: Resume) -> Any:
    """Make the field of a switch that is decided later unless it is given."""
    return declare(None, text, group=group, resume=resume)


def list_of(text: str, *, group: Group, resume: Resume) -> Any:
    """Make the field of a list that is empty unless it is given."""
    return field(default_factory=list, metadata={"help": text, "group": group, "resume": resume})


def setting_of(item: Field[Any]) -> Setting:
    """Read the declaration of a field that :func:`declare`, :func:`switch` or :func:`list_of` has made."""
    stated = item.metadata
    default = None if item.default is MISSING else item.default
    return Setting(name=item.name, kind=read_kind(cast("str", item.type), {}), default=default, **stated)


def read_kind(annotation: str, choices: Mapping[str, tuple[str, ...]]) -> Kind:
    """Read from a type as it is written what a flag of it holds, as transformers' ``HfArgumentParser`` does.

    >>> read_kind("IntervalStrategy | str", {"IntervalStrategy": ("no", "steps")})
    Kind(of='text', is_list=False, choices=('no', 'steps'))
    >>> read_kind("list[int] | None", {})
    Kind(of='whole number', is_list=True, choices=())
    >>> read_kind("bool | Literal['auto'] | None", {})
    Kind(of='truth or word', is_list=False, choices=('auto',))

    Args:
        annotation: Python source, such as ``"float | None"``.
        choices: The values of each enumeration that may occur in it.
    """
    kinds = {_name(each): each for each in _alternatives(ast.parse(annotation, mode="eval").body)}
    named = next((choices[name] for name in kinds if name in choices), ())
    if named:
        return Kind("text", choices=named)
    if "Literal" in kinds and "str" not in kinds:
        values = ast.literal_eval(cast("ast.Subscript", kinds["Literal"]).slice)
        words = values if isinstance(values, tuple) else (values,)
        return Kind("truth or word" if "bool" in kinds else "text", choices=words)
    if "list" in kinds and "str" not in kinds:
        return Kind(read_kind(ast.unparse(cast("ast.Subscript", kinds["list"]).slice), choices).of, is_list=True)
    if "bool" in kinds:
        return Kind("truth or word" if "str" in kinds else "truth")
    if "float" in kinds or "int" in kinds:
        return Kind("number" if "float" in kinds else "whole number")
    return Kind("object" if "dict" in kinds and "str" not in kinds else "text")


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the members of a union, in either notation."""
    if isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    elif isinstance(node, ast.Subscript) and _name(node) in ("Optional", "Union"):
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for member in members:
            yield from _alternatives(member)
    else:
        yield node


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.id if isinstance(node, ast.Name) else ast.unparse(node)
