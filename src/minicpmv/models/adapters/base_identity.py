"""Says which base model an adapter belongs to, and compares it with the one that it is put on.

Shapes do not tell a base from its fine-tune, nor one download from another; an adapter on the wrong one answers, and
nothing shows that it answers differently. So every adapter that is trained here states the digests of its base's
weights and of the settings that decide what they compute, in a file of its own that PEFT does not read.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.files.plain_files import read_plain
from minicpmv.models.adapters.function_digest import digest_function
from minicpmv.models.checkpoints.film_settings import film_options
from minicpmv.models.checkpoints.weight_digests import KEPT, digest_weights
from minicpmv.models.configuration import read_model_config
from minicpmv.releases.directories import find_directory
from minicpmv.releases.model_files import check_model_files

__all__ = [
    "BASE_FILE",
    "BaseIdentity",
    "OtherBaseWarning",
    "compare_base",
    "film_settings_of_adapter",
    "follow_base",
    "identify_base",
    "mode_of_adapter",
    "read_base",
    "warn_of_base",
    "warn_of_other_base",
    "write_base",
]

BASE_FILE = "base_model.json"
"""File beside ``adapter_config.json``."""

_SHOWN = 12
"""Digits of a digest."""
_ENDINGS = ["*.json", "*.safetensors", "*.bin"]
_logger = logging.getLogger(__name__)


class OtherBaseWarning(UserWarning):
    """An adapter is put on another base than the one that it was trained on."""


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """A base model, told from others of its shape."""

    path: str
    """Directory or hub name, for messages: what moves stays what it is."""
    model: str
    """The release, as ``openbmb/MiniCPM-V-2_6``."""
    weights: str
    """As ``WeightDigests`` has it."""
    shapes: str
    """As ``WeightDigests`` has it."""
    function: str
    """As ``digest_function`` has it: with other settings the same weights compute something else."""
    downsample_mode: str = ""
    """Names the mode that the adapter was trained in, whatever the base's files say; empty without a choice."""
    film_settings: str = ""
    """JSON of how films were shown to it, where a run chose numbers of its own; see ``checkpoints.film_settings``."""
    before: tuple[BaseIdentity, ...] = ()
    """Other bases that the adapter was trained on earlier, oldest first, where that was allowed."""

    def __str__(self) -> str:
        return f"{self.path} ({self.model}, weights {self.weights[:_SHOWN]})"

    def find_difference(self, other: BaseIdentity) -> str | None:
        """Say what makes another one another model; None if it is the same."""
        if self.weights != other.weights:
            return "whose weights are others"
        if self.function != other.function:
            return "which has the same weights and other settings in config.json or preprocessor_config.json"
        return None


def identify_base(base: str | Path, *, kept: Path | None = KEPT, **options: Any) -> BaseIdentity:
    """Read what tells a base model from others.

    Args:
        base: Its directory or hub name.
        kept: As for ``digest_weights``.
        options: Of a download, as for ``find_directory``.

    Raises:
        CheckpointError: It is not there, or broken.
    """
    folder = find_directory(str(base), asked_by="base model", allow_patterns=_ENDINGS, **options)
    name = str(folder.resolve()) if Path(base).expanduser().is_dir() else str(base)
    check_model_files(folder)
    config = read_model_config(folder)
    function = digest_function(folder, config)
    return BaseIdentity(name, config.minicpmv_version.model, *digest_weights(folder, kept=kept), function)


def write_base(directory: Path, base: BaseIdentity) -> None:
    """State the base of the adapter in a directory that is not yet in its place."""
    stated = asdict(base)
    for each in (stated, *stated["before"]):
        for name in ("downsample_mode", "film_settings"):
            if not each[name]:
                del each[name]
    for each in stated["before"]:
        del each["before"]
    if not base.before:
        del stated["before"]
    (directory / BASE_FILE).write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")


def read_base(adapter: str | Path) -> BaseIdentity | None:
    """Return the base that an adapter states; None if it was trained by a tool that does not say.

    Raises:
        CheckpointError: The file is damaged.
    """
    file = Path(adapter) / BASE_FILE
    try:
        stated = json.loads(read_plain(file, most_bytes=1_000_000))
        before = stated.pop("before", [])
        return replace(_identity(stated), before=tuple(_identity(each) for each in before))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: found nothing that can be read ({error}), expected what the adapter's run wrote\n"
            "  fix: restore the file; without it, the adapter is put on whatever base is named, with a notice"
        ) from error


def mode_of_adapter(adapter: str | Path | None) -> str | None:
    """Return the ``downsample_mode`` in which an adapter was trained; None if it does not say, or there is none.

    Raises:
        CheckpointError: The file is damaged.
    """
    base = None if adapter is None else read_base(adapter)
    return (base.downsample_mode or None) if base is not None else None


def film_settings_of_adapter(adapter: str | Path | None) -> dict[str, Any]:
    """Return how films were shown while an adapter was trained, as options of ``from_pretrained``.

    Raises:
        CheckpointError: The file is damaged.
    """
    base = None if adapter is None else read_base(adapter)
    if base is None or not base.film_settings:
        return {}
    try:
        return film_options(**json.loads(base.film_settings))
    except (ValueError, TypeError, AssertionError, RecursionError) as error:
        raise CheckpointError(
            f"{adapter}/{BASE_FILE}: film_settings: found {base.film_settings!r:.60}, expected what a run wrote\n"
            "  fix: restore the file"
        ) from error


def _identity(stated: Mapping[str, Any]) -> BaseIdentity:
    if not all(isinstance(value, str) for value in stated.values()):
        raise TypeError("a value that is no text")
    return BaseIdentity(**stated)


def follow_base(now: BaseIdentity, adapter: str | Path) -> BaseIdentity:
    """Return the base that training goes on with, which knows those that the adapter was trained on before.

    Raises:
        CheckpointError: The adapter's statement is damaged.
    """
    then = read_base(adapter)
    if then is None:
        return now
    is_other = then.find_difference(now) is not None
    return replace(now, before=(*then.before, replace(then, before=())) if is_other else then.before)


def compare_base(
    adapter: str | Path, base: str | Path | BaseIdentity, *, allow_other: bool, switch: str = "--allow-other-base"
) -> str | None:
    """Make sure that a base is the one that an adapter was trained on.

    Args:
        adapter: Its directory.
        base: What it is put on.
        allow_other: Whether another one is allowed.
        switch: What allows it, for the message.

    Returns:
        What was allowed: both bases in words; None if they are one, or the adapter does not say.

    Raises:
        CheckpointError: It is another one.
    """
    then = read_base(adapter)
    if then is None:
        _warn(f"{adapter}: it does not say which weights it was trained on ({BASE_FILE}), so the base is not compared")
        return None
    now = base if isinstance(base, BaseIdentity) else identify_base(base)
    difference = then.find_difference(now)
    if difference is None:
        return None
    if not allow_other:
        fits = f"; {switch} uses it all the same" if then.model == now.model else ""
        raise CheckpointError(
            f"{adapter}: found an adapter of {then}, expected one of {now}, {difference}\n"
            f"  fix: name the base that it was trained on, or train one for this base{fits}"
        )
    return f"trained on {then}, put on {now}, {difference}"


def warn_of_base(adapter: str | Path, base: str | Path, *, allow_other: bool) -> str | None:
    """Compare as ``compare_base`` does, and log a warning of what was allowed.

    Raises:
        CheckpointError: It is another one.
    """
    allowed = compare_base(adapter, base, allow_other=allow_other)
    if allowed is not None:
        _warn(f"{adapter}: {allowed}")
    return allowed


def warn_of_other_base(adapter: str | Path, base: str | Path) -> None:
    """Give an ``OtherBaseWarning`` if a base is not the one that an adapter was trained on, or cannot be compared.

    For callers who load with PEFT. As an error, ``warnings.simplefilter("error", OtherBaseWarning)``, it refuses.
    """
    try:
        found = compare_base(adapter, base, allow_other=True)
    except CheckpointError as error:
        found = f"its base is not compared: {error}"
    if found is not None:
        warnings.warn(f"{adapter}: {found}", OtherBaseWarning, stacklevel=4)


@lru_cache(maxsize=256)
def _warn(text: str) -> None:
    """Say it once: several steps of a command look at one adapter."""
    _logger.warning("notice: %s", text)
