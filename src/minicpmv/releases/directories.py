"""Where a model's files are: in the directory that was named, or in the one into which a hub's were fetched.

A name is one on Hugging Face's hub, or on what ``HF_ENDPOINT`` names; ``modelscope:owner/name`` is one on ModelScope. A
plain name that the first has not, or that does not answer, is looked for on ModelScope where its client is installed,
and a notice says so. Without a network a name is its copy in a cache, or an error at once: nothing waits for a hub that
does not answer.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from minicpmv.errors import CheckpointError
from minicpmv.releases import modelscope
from minicpmv.terminal.escapes import remember_names

__all__ = [
    "HUB_ERRORS",
    "SMALL_FILES",
    "find_cached",
    "find_directory",
    "is_hub_name",
    "name_to_load",
    "refuse_unreachable",
]

_logger = logging.getLogger(__name__)

HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])
"""Errors of huggingface_hub: its own, and those of the package that it sends requests with."""

SMALL_FILES: dict[str, Any] = {
    "ignore_patterns": ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx"]
}
"""What is fetched of a model whose weights are not needed yet."""
_WHOLE: dict[str, Any] = {"ignore_patterns": ["*.gguf", "*.h5", "*.msgpack", "*.onnx"]}
"""What is fetched from ModelScope to load a model, which from the other hub transformers fetches itself."""

_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
"""What is a name on a hub, if it is no directory."""
_SECONDS = 3.0
"""That a hub may take to answer a first time."""


class _Found(NamedTuple):
    """A model's directory, and whether it is the copy of one on ModelScope."""

    path: Path
    is_of_modelscope: bool = False


def is_hub_name(name: str) -> bool:
    """Return whether a name, if it is no directory, is one on a hub."""
    return _NAME.fullmatch(name.removeprefix(modelscope.PREFIX)) is not None


def find_directory(
    name: str, *, asked_by: str, fix: str = "download the model and give its directory", **options: Any
) -> Path:
    """Return a model's directory.

    Args:
        name: The directory, ``owner/name`` on the hub, or ``modelscope:owner/name``.
        asked_by: Begins the message of an error.
        fix: Ends it.
        options: Which files to fetch and where to, as for ``huggingface_hub.snapshot_download``.

    Raises:
        CheckpointError: There is neither such a directory nor such a hub repository.
        ConfigError: The name is on ModelScope, and its client is not installed.
    """
    return _find(name, asked_by=asked_by, fix=fix, **options).path


def _find(name: str, *, asked_by: str, fix: str, **options: Any) -> _Found:
    remember_names([name])
    path = Path(name).expanduser()
    if path.is_dir():
        return _Found(path)
    if path.is_absolute() or name.startswith(".") or not is_hub_name(name):
        raise CheckpointError(f"{asked_by}: found no directory {name!r}, expected a model's\n  fix: correct the path")
    if name.startswith(modelscope.PREFIX):
        modelscope.load_client(asked_by)
        there = _is_reachable(modelscope.endpoint())
        stripped = name.removeprefix(modelscope.PREFIX)
        return _Found(
            modelscope.fetch(stripped, asked_by=asked_by, fix=fix, is_reachable=there, **options), is_of_modelscope=True
        )
    is_reachable = _is_hub_reachable()
    try:
        return _Found(Path(snapshot_download(name, local_files_only=not is_reachable, **options)))
    except HUB_ERRORS as error:
        if is_reachable:
            reason = f"nor a hub repository of that name that can be read ({type(error).__name__})"
        else:
            offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
            reason = f"nor a copy of such a hub repository in the cache, and {offline}"
        if not is_reachable or isinstance(error, RepositoryNotFoundError):
            other = _find_on_modelscope(name, reason, **options)
            if other is not None:
                return _Found(other, is_of_modelscope=True)
        raise CheckpointError(
            f"{asked_by}: found neither a directory {name!r} {reason}, expected a model\n"
            f"  fix: correct the path; or, with a network, `hf download {name}`, or take ModelScope's by the name "
            f"{modelscope.PREFIX}{name}; {fix}"
        ) from error


def _find_on_modelscope(name: str, reason: str, **options: Any) -> Path | None:
    """Return the directory of a model that the first hub has not; None if ModelScope has none, or cannot be asked."""
    if not modelscope.has_client():
        return None
    try:
        there = _is_reachable(modelscope.endpoint())
        found = modelscope.fetch(name, asked_by="model", fix="", is_reachable=there, **options)
    except CheckpointError:
        return None
    _announce(name, reason)
    return found


@cache
def _announce(name: str, reason: str) -> None:
    """Say once that a model is another hub's."""
    _logger.warning(
        "notice: %s is taken from ModelScope: found neither a directory of that name %s. Write %s%s to say so",
        *(name, reason, modelscope.PREFIX, name),
    )


def find_cached(name: str) -> Path | None:
    """Return the copy of a model in a hub's cache, without asking any hub; None if there is none.

    Args:
        name: Its name on a hub.
    """
    if not name.startswith(modelscope.PREFIX):
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except HUB_ERRORS:
            pass
    if not modelscope.has_client():
        return None
    try:
        stripped = name.removeprefix(modelscope.PREFIX)
        return modelscope.fetch(stripped, asked_by="model", fix="", is_reachable=False)
    except CheckpointError:
        return None


def refuse_unreachable(name: str, *, asked_by: str) -> None:
    """Refuse a name on the hub whose files are not here and cannot be fetched, without fetching any.

    Args:
        name: The directory, which is not looked at, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.

    Raises:
        CheckpointError: It is such a name.
    """
    if Path(name).expanduser().exists():
        return
    if name.startswith(modelscope.PREFIX):
        modelscope.load_client(asked_by)
        is_reachable = _is_reachable(modelscope.endpoint())
    else:
        is_reachable = _is_hub_reachable()
    if not is_reachable:
        find_directory(name, asked_by=asked_by, **SMALL_FILES)


def name_to_load(name: str, *, asked_by: str, cache_dir: str | None = None) -> str:
    """Return what transformers loads a model by without waiting for a hub that does not answer.

    Args:
        name: The directory, or ``owner/name`` on the hub.
        asked_by: Begins the message of an error.
        cache_dir: Where fetched files are kept; None for huggingface_hub's own place.

    Returns:
        A directory's path, or the name on the hub where that answers, or where the environment says that it will not.
        A model of ModelScope, which transformers does not know, is fetched whole.

    Raises:
        CheckpointError: As ``find_directory`` does.
    """
    fix = "download the model and give its directory"
    found = _find(name, asked_by=asked_by, fix=fix, cache_dir=cache_dir, **SMALL_FILES)
    if found.is_of_modelscope:
        return str(_find(name, asked_by=asked_by, fix=fix, cache_dir=cache_dir, **_WHOLE).path)
    is_name = not Path(name).expanduser().is_dir() and (constants.HF_HUB_OFFLINE or _is_hub_reachable())
    return name if is_name else str(found.path)


def _is_hub_reachable() -> bool:
    return _is_reachable(constants.ENDPOINT)


def _is_reachable(endpoint: str) -> bool:
    """Whether a hub, or the proxy before it, takes a connection; after three seconds it does not."""
    if constants.HF_HUB_OFFLINE:
        return False
    hub = urlsplit(endpoint)
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
