"""Compares a model's directory with what this package expects of its release: tokens, weights, the prompts' template.

It is for real weights, which no test here has. Nothing of the directory is run; its chat template is rendered only when
asked for, by ``template_child`` in a process with limits. Weights are not read, only the headers of their files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.machine.installed import list_versions
from minicpmv.models.checkpoints.carried import find_carried
from minicpmv.models.checkpoints.key_names import own_shapes
from minicpmv.models.checkpoints.loading import refuse_misfits
from minicpmv.models.checkpoints.weight_files import find_weight_files, read_shapes
from minicpmv.models.skeleton import build_skeleton
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.chat import control_tokens_of
from minicpmv.processing.text.template_rendering import describe_difference, render_cases
from minicpmv.releases.model_files import check_model_files
from minicpmv.releases.row import find_code
from minicpmv.releases.table import Version

__all__ = ["Finding", "check_release", "compare_templates"]

_TURNS = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "  And <b>there</b>?\n"},
]
_CASES: dict[str, tuple[list[dict[str, str]], bool]] = {
    "a question": (_TURNS[:1], True),
    "a question and its answer": (_TURNS[:2], False),
    "three turns, spaces around the last": (_TURNS, True),
    "an instruction and a question": ([{"role": "system", "content": "Be short."}, *_TURNS[:1]], True),
    "an instruction and three turns": ([{"role": "system", "content": "Be short."}, *_TURNS], True),
}
"""Lists the conversations that both are asked to write: name -> messages, and whether the model is to answer."""


@dataclass(slots=True)
class Finding:
    """One line of the result, and what is wrong with what it is about."""

    subject: str
    said: str
    faults: list[str] = field(default_factory=list)


def check_release(folder: Path, *, with_template: bool) -> Iterator[Finding]:
    """Compare a directory with its release's row, part by part.

    Args:
        folder: The model's directory, with or without its weights.
        with_template: Whether to render its own chat template.

    Raises:
        CheckpointError: The files cannot be read, or are of no known release.
    """
    check_model_files(folder)
    skeleton = build_skeleton(folder)
    version = skeleton.config.minicpmv_version
    yield Finding("release", f"{version.model}, row {version.name!r} of the table")
    yield Finding("software", ", ".join(f"{name} {number}" for name, number in list_versions().items()))
    processor = MiniCPMVProcessor.from_pretrained(folder)
    yield _check_tokens(processor, version)
    yield _count(skeleton)
    yield _check_weights(folder, skeleton, version)
    if with_template:
        yield compare_templates(processor, version)
        if "tool" in find_code(version.reading.dialect).roles:
            yield _check_tools(processor)
    else:
        yield Finding("template", "not rendered; --template renders it in a process with limits, and compares")


def _check_tokens(processor: Any, version: Version) -> Finding:
    tokenizer = processor.tokenizer
    added: dict[str, int] = tokenizer.added_tokens_encoder
    needed = dict.fromkeys((*version.reading.markup.tokens, *control_tokens_of(version)))
    faults = [f"{token} is not among the added tokens" for token in needed if token not in added]
    ends = [token for token in version.reading.terminators if token in added]
    if not ends:
        faults.append(f"none of the tokens that end an answer is there: {', '.join(version.reading.terminators)}")
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ordinary = [token for token in needed if token in added and token not in special]
    said = ", ".join(f"{token} {added[token]}" for token in dict.fromkeys((*needed, *ends)) if token in added)
    said += f"; {len(tokenizer)} in all, {len(added)} added"
    if ordinary:
        said += f"; not called special: {', '.join(ordinary)}"
    return Finding("tokens", said, faults)


def _count(skeleton: Any) -> Finding:
    parts = skeleton.parts
    total = sum(parameter.numel() for parameter in skeleton.parameters())
    counts: list[str] = []
    for place in dict.fromkeys((parts.language_model, parts.tower, parts.connector)):
        module = skeleton.get_submodule(place)
        counts.append(f"{place} {sum(parameter.numel() for parameter in module.parameters()):,}")
    return Finding("parameters", f"{total:,} by config.json: {', '.join(counts)}")


def _check_weights(folder: Path, skeleton: Any, version: Version) -> Finding:
    try:
        files = find_weight_files(folder)
    except CheckpointError:
        return Finding("weights", "none there; only the other files were compared")
    try:
        found = read_shapes(files)
        refuse_misfits(found, skeleton, folder)
        carried = find_carried(files, version.network.carried)
    except CheckpointError as error:
        return Finding("weights", f"{len(files)} files", str(error).partition("\n  fix:")[0].splitlines())
    said = f"{len(own_shapes(skeleton))} tensors of the model, names and shapes as expected, in {len(files)} files"
    if version.network.carried:
        said += f"; {len(carried.tensors)} carried, {carried.num_bytes:,} bytes"
        absent = carried.missing(version.network.carried)
        said += f"; none of {', '.join(absent)}" if absent else ""
    return Finding("weights", said)


def compare_templates(processor: Any, version: Version) -> Finding:
    """Render the directory's chat template and compare it with this package's prompts.

    Args:
        processor: The directory's.
        version: Its release.

    Raises:
        CheckpointError: The process that renders gave no answer.
    """
    template = processor.chat_template
    if not isinstance(template, str):
        return Finding("template", "the directory has none to compare with")
    cases = dict(_cases(version))
    named = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: str(token) for name in named if (token := getattr(processor.tokenizer, name, None)) is not None}
    theirs = render_cases(template, list(cases.values()), tokens)
    faults: list[str] = []
    for (name, (messages, option)), rendered in zip(cases.items(), theirs, strict=True):
        ours = str(processor.apply_chat_template(messages, tokenize=False, **option))
        if "error" in rendered:
            faults.append(f"{name}: the template cannot be rendered: {rendered['error']}")
        elif rendered["text"] != ours:
            faults.append(f"{name}: {describe_difference(ours, rendered['text'])}")
    same = len(cases) - len(faults)
    return Finding("template", f"{same} of {len(cases)} conversations are the same text as the directory's own", faults)


def _check_tools(processor: Any) -> Finding:
    try:
        frame = processor.tools_frame
    except CheckpointError as error:
        return Finding("tools", "not written as here", [str(error).partition("\n  fix:")[0]])
    if frame is None:
        return Finding("tools", "the template knows none; records with tools cannot be trained")
    return Finding("tools", "announced by the template, calls and results are the same text as the directory's own")


def _cases(version: Version) -> Iterator[tuple[str, tuple[list[dict[str, str]], dict[str, bool]]]]:
    """Yield what is compared: its name, the messages and the options of the template."""
    roles = find_code(version.reading.dialect).roles
    for name, (messages, opens) in _CASES.items():
        if not all(message["role"] in roles for message in messages):
            continue
        if not (opens and version.reading.thinking):
            yield name, (messages, {"add_generation_prompt": opens})
            continue
        for word, thinks in (("off", False), ("on", True)):
            options = {"add_generation_prompt": opens, "enable_thinking": thinks}
            yield f"{name}, thinking {word}", (messages, options)
