"""Reads the file of ``--tools``: functions that the model may call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpmv.errors import UsageError

__all__ = ["check_release", "read_tools_file"]


def read_tools_file(file: str) -> list[dict[str, Any]]:
    """Return the functions of a JSON file, in OpenAI's form.

    Raises:
        UsageError: There is no such file, or it holds something else.
    """
    from minicpmv.processing.text.tool_calls import ToolFault, read_tools

    try:
        tools = read_tools(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(
            f"--tools: found no file {file!r} that can be read ({reason}), expected a JSON file of functions\n"
            "  fix: name a file that exists"
        ) from error
    except ToolFault as fault:
        raise UsageError(
            f"--tools {file}{fault.place}: found {fault.found}, expected {fault.expected}\n  fix: {fault.fix}"
        ) from fault
    if not tools:
        raise UsageError(
            f"--tools {file}: found no function, expected at least one\n  fix: add one, or leave --tools out"
        )
    return tools


def check_release(model: str) -> None:
    """Make sure that a model's release knows tools, before its weights are loaded.

    Raises:
        UsageError: It does not.
    """
    from minicpmv.inference.loading import find_version
    from minicpmv.processing.text.chat import roles_of

    version = find_version(model)
    if "tool" not in roles_of(version):
        raise UsageError(
            f"--tools: found them for {version.model}, expected a release that was trained with tools "
            "(4.6 and later)\n  fix: leave --tools out"
        )
