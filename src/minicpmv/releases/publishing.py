"""Uploads a finished model to a hub: its own files and its card, and nothing else that lies in its directory.

What belongs to a model is a list of names here. Checkpoints, optimizer states, logs, reports, records and settings of a
run are not on it, nor is any file that somebody put there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.files.scratch import scratch_folder
from minicpmv.releases import modelscope
from minicpmv.releases.directories import HUB_ERRORS, is_hub_name
from minicpmv.releases.json_bounds import quote
from minicpmv.releases.model_files import read_object

__all__ = ["Push", "plan_push", "push"]

_ADAPTER, _BASE, _CARD = "adapter_config.json", "base_model.json", "README.md"
_OF_A_MODEL = (
    *("*.safetensors", "*.safetensors.index.json", "*.gguf", "vpm_resampler_embedtokens.pt"),
    *("config.json", "generation_config.json", _ADAPTER, _BASE, _CARD, "LICENSE*", "NOTICE*"),
    *("*processor_config.json", "tokenizer*.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*", "*.py", "assets/*"),
)
_MESSAGE = "Upload a model tuned with minicpmv-finetune"
_SERVER_FAILED = 500
"""The least HTTP status of a server that fails, instead of refusing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """What will be uploaded, and where to."""

    folder: Path
    name: str
    """``owner/name``, or ``modelscope:owner/name``."""
    files: tuple[str, ...]
    """Paths within the directory."""
    left_out: tuple[str, ...]
    """Names in the directory that are not uploaded."""
    base: str | None
    """Name of an adapter's base on a hub; None for a whole model."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum((self.folder / file).stat().st_size for file in self.files)


def plan_push(folder: str | Path, name: str, *, base: str | None = None) -> Push:
    """Choose the files that belong to the model.

    Args:
        folder: Directory of an adapter, of a whole model or of GGUF files.
        name: ``owner/name`` on Hugging Face's hub, or ``modelscope:owner/name``.
        base: Name of an adapter's base on a hub, in place of the directory on this machine that the adapter states.

    Raises:
        CheckpointError: There is no model in the directory.
        UsageError: A name is none of a hub, or the adapter states a directory and no name was given.
    """
    place = Path(folder).expanduser()
    for asked_by, given in (("NAME", name), ("--base", base)):
        if given is not None and (not is_hub_name(given) or given.startswith((".", "/"))):
            raise UsageError(
                f"{asked_by}: found {given!r}, expected a name on a hub\n"
                f"  fix: owner/name, or {modelscope.PREFIX}owner/name for ModelScope"
            )
    found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    files = tuple(file for file in found if _belongs(file))
    if not any(file.endswith((".safetensors", ".gguf")) for file in files):
        raise CheckpointError(
            f"{place}: found no weights in .safetensors or .gguf files, expected the directory of a finished model\n"
            "  fix: name the directory that a run, `minicpmv merge` or `minicpmv export` printed"
        )
    stated = _stated_base(place) if _ADAPTER in files else None
    if stated is not None and base is None and not is_hub_name(stated):
        release = _release_of(place)
        raise UsageError(
            f"{place / _ADAPTER}: found the base {quote(stated)}, a directory of this machine, expected a name on a "
            f"hub, so that others find it\n  fix: --base {release or 'owner/name'}, if that is what it was trained on"
        )
    left_out = sorted(
        {file.split("/")[0] for file in found if file not in files} - {file.split("/")[0] for file in files}
    )
    return Push(
        folder=place,
        name=name,
        files=files,
        left_out=tuple(left_out),
        base=None if stated is None else base or stated,
    )


def push(plan: Push, *, is_private: bool) -> str:
    """Make the repository if there is none, and upload; return its address.

    Tokens are those of the hubs' own clients (``HF_TOKEN``, ``MODELSCOPE_API_TOKEN``, or a login).

    Raises:
        UsageError: ``HF_HUB_OFFLINE`` is set.
        CheckpointError: The hub refuses, or does not answer.
        ConfigError: The name is on ModelScope, and its client is not installed.
    """
    if constants.HF_HUB_OFFLINE:
        raise UsageError("push: found HF_HUB_OFFLINE set, expected a network\n  fix: unset HF_HUB_OFFLINE")
    with scratch_folder("push") as staged:
        _stage(plan, staged)
        send = _send_to_modelscope if plan.name.startswith(modelscope.PREFIX) else _send_to_hugging_face
        return send(plan.name.removeprefix(modelscope.PREFIX), staged, is_private=is_private)


def _belongs(file: str) -> bool:
    is_of_a_part = file.startswith("assets/")
    return (is_of_a_part or "/" not in file) and any(fnmatch(file, pattern) for pattern in _OF_A_MODEL)


def _stated_base(folder: Path) -> str:
    fields = read_object(folder / _ADAPTER, expected="an adapter's", fix="name the directory of a finished adapter")
    return str(fields.get("base_model_name_or_path") or "")


def _release_of(folder: Path) -> str | None:
    """Return the name of the release that an adapter's base is one of, which it is itself if it was not tuned."""
    file = folder / _BASE
    return str(read_object(file, expected="a base's", fix="train again").get("model")) if file.is_file() else None


def _stage(plan: Push, staged: Path) -> None:
    """Put links to the files into a folder of their own, with those that name places of this machine written again."""
    for file in plan.files:
        target = staged / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((plan.folder / file).resolve())
    for file, field in ((_ADAPTER, "base_model_name_or_path"), (_BASE, "path")):
        if plan.base is not None and file in plan.files:
            content = json.loads((plan.folder / file).read_text(encoding="utf-8"))
            (staged / file).unlink()
            text = json.dumps({**content, field: plan.base}, indent=2, ensure_ascii=False)
            (staged / file).write_text(text + "\n", encoding="utf-8")
    if _CARD not in plan.files:
        (staged / _CARD).write_text(_write_card(plan), encoding="utf-8")


def _write_card(plan: Push) -> str:
    name = plan.name.removeprefix(modelscope.PREFIX)
    lines = ["---", "pipeline_tag: image-text-to-text", "tags:", "- minicpm-v"]
    if plan.base is not None:
        lines += [f"base_model: {plan.base.removeprefix(modelscope.PREFIX)}", "library_name: peft"]
    lines += ["---", "", f"# {name.partition('/')[2]}", ""]
    kind = "A MiniCPM-V model" if plan.base is None else f"An adapter of {plan.base.removeprefix(modelscope.PREFIX)}"
    lines += [
        f"{kind}, tuned with minicpmv-finetune.",
        "",
        "```shell",
        f"minicpmv chat {plan.name} --image IMAGE QUESTION",
    ]
    lines += [
        "```",
        "",
        "What it was trained on, and what it must not be used for, is for its owner to write here.",
        "",
    ]
    return "\n".join(lines)


def _send_to_hugging_face(name: str, staged: Path, *, is_private: bool) -> str:
    hub = huggingface_hub.HfApi()
    try:
        made = hub.create_repo(name, private=is_private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=staged, commit_message=_MESSAGE)
    except (*HUB_ERRORS, RuntimeError) as error:  # the last wraps what storage says of a large file
        raise _failed(name, f"{constants.ENDPOINT}", "HF_TOKEN, or `hf auth login`", error) from error
    return str(made)


def _send_to_modelscope(name: str, staged: Path, *, is_private: bool) -> str:
    client = modelscope.load_client("NAME")
    hub: Any = client.HubApi()
    try:
        if not hub.repo_exists(name, "model"):
            hub.create_repo(name, "model", visibility="private" if is_private else "public")
        hub.upload_folder(name, "model", staged, commit_message=_MESSAGE, use_cache=False, disable_tqdm=True)
    except (client.HubError, OSError, ValueError) as error:
        raise _failed(name, modelscope.endpoint(), "MODELSCOPE_API_TOKEN, or `ms login`", error) from error
    return f"{modelscope.endpoint()}/models/{name}"


def _failed(name: str, address: str, token: str, error: Exception) -> CheckpointError:
    said = re.sub(r"\s+", " ", str(error))[:200]
    if _is_of_the_network(error):
        return CheckpointError(
            f"{name}: found that {address} does not answer ({type(error).__name__}: {said}), expected a network that "
            "leads there\n  fix: try again when it answers"
        )
    return CheckpointError(
        f"{name}: found that {address} refuses the upload ({type(error).__name__}: {said}), expected a repository that "
        f"you may write to\n  fix: correct the name, or give a token that may write: {token}"
    )


def _is_of_the_network(error: BaseException) -> bool:
    """Whether no hub has judged the upload: it could not be reached, or a server on the way failed."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for each in causes:
        status = getattr(each, "status_code", None) or getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return status >= _SERVER_FAILED
    unanswered = (ConnectionError, TimeoutError, HUB_ERRORS[-1])
    return any(isinstance(each, unanswered) for each in causes)
