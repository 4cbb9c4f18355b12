"""Reads a command line: the official scripts' flags, ours, and every field of transformers' ``TrainingArguments``.

It only reads what was asked for, without torch; ``resolution`` fills in the rest, once the machine is known.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.terminal.redaction import clean_command
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings, our_settings
from minicpmv.training.flags.contradictions import check_contradictions, check_required
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.declared.recipe import recipe_of
from minicpmv.training.flags.fields import Setting
from minicpmv.training.flags.words.legacy_flags import translate_legacy
from minicpmv.training.flags.words.values import Place, check_range, read_values
from minicpmv.wording import hub_advice, suggest

__all__ = ["Request", "parse_arguments"]

_REQUIRED = ("model_name_or_path", "data_path", "output_dir")
_PATHS = (*_REQUIRED, "cache_dir", "image_root", "logging_dir", "reference_cache")
"""Places, of which an empty name would be the current folder or none; of other settings it says that they are off."""
_HELP = "`minicpmv train --help` lists all"


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed command line."""

    run: RunArguments
    training: Mapping[str, Any]
    """The ``TrainingArguments`` fields that were given, and only those."""
    values: Mapping[str, Any]
    """The value of each flag that was given, as it was read."""
    notices: tuple[str, ...]
    command: tuple[str, ...]
    """The command line as typed; secrets in it are hidden."""

    @property
    def given(self) -> frozenset[str]:
        """Names of all flags that were given."""
        return frozenset(self.values)


def parse_arguments(arguments: Sequence[str]) -> Request:
    """Read a command line, in today's spelling or that of the 2024 scripts.

    Raises:
        UsageError: A flag is unknown, misspelt, contradicts another, or asks for what cannot be done.
    """
    known, ours = all_settings(), our_settings()
    today, notices = translate_legacy(arguments, known=known)
    values, repeated = _collect(_read_words(today, known))
    given = frozenset(values)
    if values.get("q_lora") and values.get("use_lora") is False:
        raise UsageError(
            "--q_lora true --use_lora false: found both, expected one: QLoRA is LoRA on weights in 4 bits\n"
            "  fix: remove --use_lora false to train LoRA, or --q_lora to train the model itself"
        )
    run = RunArguments(**{name: value for name, value in values.items() if name in ours})
    training = {name: value for name, value in values.items() if name not in ours}
    run = replace(
        run,
        eval_data_path=[path for path in run.eval_data_path if path],  # the scripts pass an empty variable on
        use_lora=run.use_lora or run.q_lora,
        init_lora_weights=run.init_lora_weights.lower(),
    )
    for name in _PATHS:
        if "" in (values.get(name), *(values[name] if isinstance(values.get(name), list) else ())):
            fix = "name one" if name in _REQUIRED else "name one, or leave the flag out"
            raise UsageError(f"--{name}: found '', expected a name\n  fix: {fix}")
    check_required(run, training)
    for name, value in values.items():
        check_range(value, known[name].range, Place.flag(name), default=known[name].default)
    check_contradictions(run, training, given)
    run = _resolve_best(run, training)
    run, packing_notices = _resolve_packing(run, training)
    if run.changes_base or (run.objective == "dpo" and "lora_dropout" not in given):
        run = replace(run, lora_dropout=0.0)  # the model is compared with itself
    if run.use_lora and run.lora_preset is None:
        run = replace(run, lora_preset=recipe_of(run.objective, use_lora=True)["lora_preset"])
    training.pop("load_best_model_at_end", None)
    return Request(run, training, values, (*notices, *repeated, *packing_notices), tuple(clean_command(arguments)))


def _resolve_best(run: RunArguments, training: Mapping[str, Any]) -> RunArguments:
    """Make every way to ask for the best checkpoint one."""
    asked = run.keep_best or bool(run.early_stopping) or bool(training.get("load_best_model_at_end"))
    return replace(run, keep_best=asked)


def _resolve_packing(run: RunArguments, training: Mapping[str, Any]) -> tuple[RunArguments, list[str]]:
    """Decide whether rows are packed if the command line does not, with notices on why they are not.

    Raises:
        UsageError: ``--pack_length`` or ``--pack_patches`` has no effect, or the former is too short.
    """
    notices: list[str] = []
    if run.packing is None:
        for_padded = (("train_sampling_strategy", "group_by_length"), ("dataloader_drop_last", True))
        asked = [f"--{name} {str(value).lower()}" for name, value in for_padded if training.get(name) == value]
        asked += [] if run.check_first else ["--check_first false"]
        run = replace(run, packing=not asked)
        notices = [f"{flag}: records are padded, not packed; without it they are packed" for flag in asked]
    if run.pack_patches is not None and not run.packing:
        raise UsageError(
            f"--pack_patches: found {run.pack_patches} without packing, expected packed rows\n"
            "  fix: remove the flag, or what turns packing off"
        )
    if run.pack_length is None:
        return run, notices
    if not run.packing:
        raise UsageError(
            f"--pack_length: found {run.pack_length} without packing, expected packed rows\n"
            "  fix: remove it, or the flag that turns packing off"
        )
    if run.pack_length < run.model_max_length:
        raise UsageError(
            f"--pack_length: found {run.pack_length}, expected at least the {run.model_max_length} tokens that one "
            "record may have (--model_max_length)\n  fix: raise it, or lower --model_max_length as well"
        )
    return run, notices


# --------------------------------------------------------------------------------------------------------------- words


def _collect(read: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the value of each flag, of one given twice the last; and a notice where that drops a list."""
    values: dict[str, Any] = {}
    notices: list[str] = []
    for name, value in read:
        is_dropped = isinstance(values.get(name), list) and any(values[name]) and values[name] != value
        if is_dropped:
            notices.append(f"--{name}: found it twice, the last counts: {' '.join(value)}")
        values[name] = value
    return values, notices


def _read_words(words: Sequence[str], known: Mapping[str, Setting]) -> Iterator[tuple[str, Any]]:
    """Yield each flag and its value."""
    position = 0
    while position < len(words):
        if not _is_flag(words[position]):
            if position == 0 and os.path.exists(words[0]):
                kind = "a directory" if os.path.isdir(words[0]) else "a file that is not YAML"
                raise UsageError(
                    f"command line: found {words[0]!r}, {kind}, expected a file of settings (.yaml), or a flag\n"
                    f"  fix: name the .yaml file; if these are data, write --data {shlex.quote(words[0])} ({_HELP})"
                )
            raise UsageError(
                f"command line: found {words[position]!r}, expected a flag\n"
                "  fix: check the quoting of the flag before it; a file of settings is YAML (.yaml) and comes first "
                f"({_HELP})"
            )
        typed, equals, inline = words[position].partition("=")
        name, position = typed.removeprefix("--").replace("-", "_"), position + 1
        values = [inline] if equals else []
        setting = known.get(OTHER_NAMES.get(name, name))
        if setting is None:
            yield _read_negation(typed, values, known), False
            continue
        while not equals and position < len(words) and not _is_flag(words[position]):
            if values and not setting.kind.is_list:
                break
            values.append(words[position])
            position += 1
        yield setting.name, read_values(setting, values, Place.flag(setting.name))


def _is_flag(word: str) -> bool:
    """Whether a word is a flag; a text of several words is a value, whatever it begins with."""
    return word.startswith("--") and " " not in word.partition("=")[0]


def _read_negation(typed: str, values: Sequence[str], known: Mapping[str, Setting]) -> str:
    """Return the switch that ``--no_SWITCH`` turns off, a second spelling that transformers' own parser has."""
    name = typed.removeprefix("--").replace("-", "_")
    setting = known.get(name.removeprefix("no_"))
    if name.startswith("no_") and setting is not None and setting.kind.of == "truth" and not values:
        return setting.name
    advice = hub_advice(name) or suggest(name, [*known, *OTHER_NAMES], otherwise="remove it", prefix="--", most=3)
    raise UsageError(f"{typed}: no such flag, expected one that exists\n  fix: {advice} ({_HELP})")
