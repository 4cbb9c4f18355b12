"""Fetches models from ModelScope, by its hub's own client, which is an optional package.

Names there begin with ``modelscope:``. Offline, by ``HF_HUB_OFFLINE`` as for the other hub, only the cache is read.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError, ConfigError
from minicpmv.machine.installed import extra, install_command

__all__ = ["PREFIX", "endpoint", "fetch", "has_client", "load_client"]

PREFIX = "modelscope:"
"""Begins a name on ModelScope, such as ``modelscope:OpenBMB/MiniCPM-V-4_5``."""


def has_client() -> bool:
    """Return whether the package that fetches is installed."""
    return importlib.util.find_spec("modelscope_hub") is not None


def load_client(asked_by: str) -> Any:
    """Import the package, which takes a second, and return it.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        client = importlib.import_module("modelscope_hub")
        logging.getLogger("modelscope_hub").setLevel(logging.WARNING)  # its bar tells as much
        return client
    except ImportError as error:
        raise ConfigError(
            f"{asked_by}: found a name on ModelScope but no modelscope-hub, expected the package that reads it\n"
            f"  fix: {install_command(extra('modelscope'))}"
        ) from error


def endpoint() -> str:
    """Return the address that answers for ModelScope: ``MODELSCOPE_ENDPOINT``, or its own."""
    return load_client("ModelScope").get_default_config().endpoint


def fetch(
    name: str, *, asked_by: str, fix: str, is_reachable: bool, cache_dir: str | None = None, **patterns: list[str]
) -> Path:
    """Return the directory into which a model's files were fetched.

    Args:
        name: ``owner/name``, without the prefix.
        asked_by: Begins the message of an error.
        fix: Ends it.
        is_reachable: Whether ModelScope may be asked; otherwise the copy in the cache is returned.
        cache_dir: Where fetched files are kept; None for the client's own place.
        patterns: ``allow_patterns`` or ``ignore_patterns`` of the files.

    Raises:
        CheckpointError: There is no such model, or no copy of it where ModelScope is not to be asked.
        ConfigError: The client is not installed.
    """
    client = load_client(asked_by)
    try:
        return Path(
            client.HubApi().download_repo(
                name, "model", cache_dir=cache_dir, local_files_only=not is_reachable, **patterns
            )
        )
    except (client.HubError, OSError, ValueError) as error:
        reason = (
            f"no model {name!r} on ModelScope that can be read ({type(error).__name__})"
            if is_reachable
            else f"no copy of ModelScope's {name!r} in the cache, and ModelScope is not to be asked or does not answer"
        )
        raise CheckpointError(
            f"{asked_by}: found {reason}, expected a model\n"
            f"  fix: correct the name; or, with a network, `modelscope download {name}`; {fix}"
        ) from error
