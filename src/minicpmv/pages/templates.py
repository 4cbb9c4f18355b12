"""Makes the template engine of all pages, with their shared filters. Text that comes from a user is escaped."""

from __future__ import annotations

import jinja2

from minicpmv.terminal.escapes import escape

__all__ = ["make_environment"]


def make_environment(package: str) -> jinja2.Environment:
    """Make the engine for a package's templates.

    Args:
        package: Its ``assets`` hold them; those of this package can be included as well.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "assets") for name in (package, "minicpmv.pages")]),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "share": _share}
    return environment


def _finalize(value: object) -> object:
    """Show control characters as escapes: a browser hides them, or reverses the text."""
    return type(value)(escape(value)) if isinstance(value, str) else value  # keeps a safe string marked as safe


def _count(number: int) -> str:
    """Write a whole number with thousands separators."""
    return f"{number:,}"


def _share(part: float, whole: float) -> str:
    """Write a share in per cent; a part above zero is never 0 %."""
    percent = 100 * part / whole if whole else 0.0
    return "< 1 %" if 0 < percent < 1 else f"{percent:.0f} %"
