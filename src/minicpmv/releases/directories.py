"""Where a model's files are: in the directory that was named, or in the one into which the hub's were fetched.

Without a network a name on the hub is its copy in the cache, or an error at once: nothing waits for a hub that does
not answer.
"""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download

from minicpmv.errors import CheckpointError
from minicpmv.terminal.escapes import remember_names

__all__ = ["HUB_NAME", "SMALL_FILES", "find_directory", "name_to_load", "refuse_unreachable"]

SMALL_FILES: dict[str, Any] = {
    "ignore_patterns": ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx"]
}
"""What is fetched of a model whose weights are not needed yet."""

HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
"""What is a name on the hub, if it is no directory."""
_SECONDS = 3.0
"""That a hub may take to answer a first time."""


def find_directory(
    name: str, *, asked_by: str, fix: str = "download the model and give its directory", **options: Any
) -> Path:
    """Return a model's directory.

    Args:
        name: The directory, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.
        fix: Ends it.
        options: Which files to fetch and where to, as for ``huggingface_hub.snapshot_download``.

    Raises:
        CheckpointError: There is neither such a directory nor such a hub repository.
    """
    remember_names([name])
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(".") or not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{asked_by}: found no directory {name!r}, expected a model's\n  fix: correct the path")
    is_reachable = _is_hub_reachable()
    try:
        return Path(snapshot_download(name, local_files_only=not is_reachable, **options))
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are of these kinds
        if is_reachable:
            reason = f"nor a hub repository of that name that can be read ({type(error).__name__})"
        else:
            offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
            reason = f"nor a copy of such a hub repository in the cache, and {offline}"
        raise CheckpointError(
            f"{asked_by}: found neither a directory {name!r} {reason}, expected a model\n"
            f"  fix: correct the path; or, with a network, `hf download {name}`; {fix}"
        ) from error


def refuse_unreachable(name: str, *, asked_by: str) -> None:
    """Refuse a name on the hub whose files are not here and cannot be fetched, without fetching any.

    Args:
        name: The directory, which is not looked at, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.

    Raises:
        CheckpointError: It is such a name.
    """
    if not Path(name).expanduser().exists() and not _is_hub_reachable():
        find_directory(name, asked_by=asked_by, **SMALL_FILES)


def name_to_load(name: str, *, asked_by: str, cache_dir: str | None = None) -> str:
    """Return what transformers loads a model by without waiting for a hub that does not answer.

    Args:
        name: The directory, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.
        cache_dir: Where fetched files are kept; None for huggingface_hub's own place.

    Returns:
        A directory's path, or the name on the hub where that answers, or where the environment says that it will not.

    Raises:
        CheckpointError: As ``find_directory`` does.
    """
    directory = find_directory(name, asked_by=asked_by, cache_dir=cache_dir, **SMALL_FILES)
    is_name = not Path(name).expanduser().is_dir() and (constants.HF_HUB_OFFLINE or _is_hub_reachable())
    return name if is_name else str(directory)


def _is_hub_reachable() -> bool:
    """Whether the hub, or the proxy before it, takes a connection; after three seconds it does not."""
    if constants.HF_HUB_OFFLINE:
        return False
    hub = urlsplit(constants.ENDPOINT)
    proxy = None if urllib.request.proxy_bypass(hub.hostname or "") else urllib.request.getproxies().get(hub.scheme)
    place = hub if proxy is None else urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = place.port or (443 if place.scheme == "https" else 80)
    answers: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((place.hostname or "", port), timeout=_SECONDS):
                answers.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)  # because looking a name up knows no limit of its own
    thread.start()
    thread.join(_SECONDS)
    return bool(answers)
