"""Uploads what a run has saved where ``--push_to_hub`` asks for it, by the code of ``minicpmv push``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from minicpmv.errors import CheckpointError, MiniCPMVError, UsageError
from minicpmv.releases import modelscope
from minicpmv.releases.directories import is_hub_name
from minicpmv.releases.publishing import plan_push, push
from minicpmv.training.distributed.console import say
from minicpmv.training.monitoring.run_record import minicpmv_command

__all__ = ["Upload", "find_upload", "upload_saved"]

_NEEDING_A_PUSH = ("hub_model_id", "hub_private_repo", "hub_strategy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A repository on a hub that receives a run's model."""

    name: str
    """``owner/name``, or ``modelscope:owner/name``."""
    base: str | None
    """Name of an adapter's base on a hub."""
    is_private: bool

    def command(self, directory: str) -> list[str]:
        """Return the command that does the same."""
        base = ["--base", self.base] if self.base is not None else []
        return [minicpmv_command(), "push", directory, self.name, *base, *([] if self.is_private else ["--public"])]


def find_upload(training: Mapping[str, Any], *, base: str, use_lora: bool) -> Upload | None:
    """Read what the flags say of an upload, and refuse one that could not work before the run begins.

    Args:
        training: Fields of ``TrainingArguments`` that were given.
        base: Name or directory of the model that is trained.
        use_lora: Whether an adapter is saved, which states its base.

    Returns:
        None where none is asked for.

    Raises:
        UsageError: Flags are missing, without effect or no names; there is no network or no token.
        ConfigError: The name is on ModelScope, and its client is not installed.
    """
    if not training.get("push_to_hub"):
        idle = next((name for name in _NEEDING_A_PUSH if training.get(name) is not None), None)
        if idle is not None:
            raise UsageError(
                f"--{idle}: found without --push_to_hub true, expected both\n  fix: add it, or remove --{idle}"
            )
        return None
    name = str(training.get("hub_model_id") or "")
    if not is_hub_name(name) or name.startswith((".", "/")):
        raise UsageError(
            f"--push_to_hub: found --hub_model_id {name!r}, expected the name of the repository\n"
            f"  fix: --hub_model_id owner/name, or {modelscope.PREFIX}owner/name for ModelScope"
        )
    if training.get("hub_strategy") not in (None, "end"):
        raise UsageError(
            f"--hub_strategy: found {training['hub_strategy']!r}, expected 'end': the model is uploaded once, when it "
            "is saved and verified\n  fix: remove the flag"
        )
    is_named = is_hub_name(base) and not Path(base).exists()
    if use_lora and not is_named:
        raise UsageError(
            f"--push_to_hub: found an adapter of {base!r}, a directory of this machine, expected a base on a hub, so "
            "that others find it\n  fix: train from the base's name on a hub; or leave --push_to_hub out, and upload "
            f"with `minicpmv push OUTPUT {name} --base owner/name`"
        )
    if constants.HF_HUB_OFFLINE:
        raise UsageError("--push_to_hub: found HF_HUB_OFFLINE set, expected a network\n  fix: unset HF_HUB_OFFLINE")
    if name.startswith(modelscope.PREFIX):
        modelscope.load_client("--hub_model_id")
    elif huggingface_hub.get_token() is None:
        raise UsageError(
            "--push_to_hub: found no token, expected one that may write\n  fix: set HF_TOKEN, or run `hf auth login`"
        )
    return Upload(name=name, base=base if use_lora else None, is_private=training.get("hub_private_repo") is not False)


def upload_saved(upload: Upload, directory: str) -> None:
    """Upload the model that a run has saved; call it on the first process.

    Raises:
        CheckpointError: The upload failed; the message says that the model is saved, and the command that tries again.
    """
    say(f"uploading the model to {upload.name} ...")
    try:
        address = push(plan_push(directory, upload.name, base=upload.base), is_private=upload.is_private)
    except (MiniCPMVError, OSError) as error:
        said, _, mending = str(error).partition("\n  fix: ")
        again = "; then ".join(filter(None, [mending, shlex.join(upload.command(directory))]))
        raise CheckpointError(
            f"--push_to_hub: found an upload that failed ({said}), expected one that succeeds; the run is finished "
            f"and its model is saved in {directory}\n"
            f"  fix: {again}"
        ) from error
    say(f"Uploaded: {address}")
