"""Composes the settings of a task for a model and a card. A later section wins over an earlier one, line by line."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from minicpmv.errors import MachineError, UsageError
from minicpmv.estimation.answer import Answer, Question, answer, as_json
from minicpmv.estimation.devices import find_device
from minicpmv.estimation.duration import DEFAULT_SHARE
from minicpmv.machine.installed import extra, install_command
from minicpmv.recipes.tasks import TASKS
from minicpmv.training.flags.declared.recipe import recipe_of, sharding_of, write_value
from minicpmv.training.flags.words.settings_file import with_settings_file
from minicpmv.training.launching.launched import ALWAYS_ALLOWED
from minicpmv.wording import counted, format_bytes

__all__ = ["Cards", "compose_recipe", "parse_cards", "sections_of"]

_CARDS = re.compile(r"(?:(?P<number>[1-9]\d*)x)?(?P<card>.+)")
_ENTRY = re.compile(r"((?:^#.*\n)*)^(\w+):.*\n", re.MULTILINE)
_OPEN = re.compile(r"^(\w+):$", re.MULTILINE)
"""A name without a value, which is the recipe's."""
_NEED_BITSANDBYTES = ("q_lora", "optim")
"""Settings by which a recipe makes a model fit that need a package of an extra."""


@dataclass(frozen=True, slots=True)
class Cards:
    """The devices that a recipe is for."""

    name: str
    """``24GB`` or ``a100-80g``; ``cpu``."""
    number: int = 1

    @property
    def in_words(self) -> str:
        """As in a sentence."""
        return "the processor" if self.name == "cpu" else f"{counted(self.number, 'card')} ({self.name})"


def parse_cards(text: str) -> Cards:
    """Read ``24``, ``8x80``, a card's name or ``cpu``.

    >>> parse_cards("8x80"), parse_cards("4090")
    (Cards(name='80GB', number=8), Cards(name='4090', number=1))

    Raises:
        UsageError: It is none of these, or more cards than a machine has.
    """
    written = text.strip().lower()
    if written == "cpu":
        return Cards("cpu")
    match = _CARDS.fullmatch(written)
    number, name = (int(match["number"] or 1), match["card"]) if match else (1, "")
    if number > ALWAYS_ALLOWED:
        raise UsageError(
            f"--card: found {text!r}, expected at most {ALWAYS_ALLOWED} cards, those of one machine\n"
            f"  fix: name those of one, such as 8x{name}; NNODES of the scripts joins machines (docs/clusters.md)"
        )
    name = f"{name}GB" if name.isdecimal() and len(name) <= _DIGITS_OF_A_SIZE else name
    find_device(name, flag="--card", given=text, forms="a size such as 24 or 24GB, several cards such as 8x80, cpu")
    return Cards(name, number)


_DIGITS_OF_A_SIZE = 3
"""``24`` is a size, ``4090`` a name."""


def compose_recipe(task: str, *, model: str, data: Sequence[str], cards: Cards, file: str) -> str:
    """Return the file of settings for a task, with what the estimate adds so that it fits.

    Args:
        task: One of ``TASKS``.
        model: Directory or name of the model.
        data: Files to train on. Where they exist their rows are planned, otherwise the longest that are allowed.
        cards: Devices to train on.
        file: Name that the file will have, for its comments.

    Raises:
        MachineError: Nothing makes the run fit.
        MiniCPMVError: Training would refuse the settings, the model or the data.
    """
    names = {"model": model, "data": list(data), "output": f"output/{task}"}
    sections = [yaml.safe_dump(names, sort_keys=False, allow_unicode=True), *sections_of(task)]
    own = {"activation_checkpointing": "true"}
    if cards.name == "cpu":  # which has memory enough, and little speed
        own = {"use_cpu": "true", "activation_checkpointing": "false"}
    if cards.number > 1:
        own |= {"deepspeed": sharding_of(use_lora=True), "num_processes": str(cards.number)}
    found, changes, needed = _make_fit(sections, own, data, cards)
    note = _describe(found, needed, changes, cards)
    own |= changes
    head = [
        f"# Recipe for {TASKS[task]}: {model} on {cards.in_words}.",
        f"# Written by `minicpmv init {task}`; edit it, then",
        f"#   {shlex.join(['minicpmv', 'train', file, '--dry_run', 'true'])}",
        f"#   {shlex.join(['minicpmv', 'train', file])}",
        "# A line is a flag of `minicpmv train`, whose --help explains all; flags behind the file win over it.",
        "",
    ]
    return "\n".join([*head, _join([*sections, note + _card_section(own)])])


def sections_of(task: str) -> tuple[str, str]:
    """Return what a task has of its own, and what it has in common with others, by the recipe of training.

    Args:
        task: One of ``TASKS``.
    """
    values = {"use_lora": True, **recipe_of("dpo" if task == "preference" else "sft", use_lora=True)}
    return _fill(_asset(task), values), _fill(_asset("common"), values)


def _asset(name: str) -> str:
    return (resources.files("minicpmv.recipes") / "assets" / f"{name}.yaml").read_text(encoding="utf-8")


def _fill(section: str, recipe: Mapping[str, Any]) -> str:
    """Write the values of the recipe behind the names that have none."""
    return _OPEN.sub(lambda match: f"{match[1]}: {write_value(recipe[match[1]])}", section)


def _card_section(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in settings.items())


def _join(sections: Sequence[str]) -> str:
    """Join sections; the settings of a task win over the common ones, and those of the card over both."""
    names, task, common, card = sections
    task = _without(task, card)
    return "\n".join([names, task, _without(common, f"{task}{card}"), card])


def _without(section: str, later: str) -> str:
    """Leave out the settings that a later section has, with the comments above them."""
    stated = {match[2] for match in _ENTRY.finditer(later)}
    return _ENTRY.sub(lambda match: "" if match[2] in stated else match[0], section)


def _estimate(text: str, data: Sequence[str], cards: Cards) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recipe.yaml")
        file.write_text(text, encoding="utf-8")
        words = with_settings_file([str(file)])
    has_data = all(Path(each.partition(":")[0]).exists() for each in data)
    question = Question(
        arguments=tuple(words),
        has_data=has_data,
        devices=() if cards.name == "cpu" else (find_device(cards.name),),
        num_devices=cards.number,
        share=DEFAULT_SHARE,
    )
    return answer(question)


def _make_fit(
    sections: Sequence[str], own: Mapping[str, str], data: Sequence[str], cards: Cards
) -> tuple[Answer, dict[str, str], int]:
    """Find the least change of settings with which the run fits.

    LoRA alone and weights in 4 bits come before what the estimate names first: offloading keeps the official recipe on
    a small card, but moves weights through the machine's memory in each step.

    Returns:
        The estimate of the run without a change, the change, and the bytes that it then needs.
    """
    asked = _estimate(_join([*sections, _card_section(own)]), data, cards)
    runs = [(dict[str, str](), as_json(asked)["as_asked"])]
    if not _fits(runs[0][1]):
        less = {"lora_preset": "adapters_only"}
        report = as_json(_estimate(_join([*sections, _card_section({**own, **less})]), data, cards))
        changes = [(less | _settings_of(each["flags"]), each) for each in report["changes"]]
        runs += [(less, report["as_asked"]), *sorted(changes, key=lambda change: _price(change[0]))]
    for change, needed in runs:
        if _fits(needed):
            return asked, change, needed["memory"]["total"]
    least = format_bytes(min(needed["memory"]["total"] for _, needed in runs))
    raise MachineError(
        f"--card: found {cards.in_words}, expected at least {least} on each, which the smallest run needs\n"
        "  fix: name a larger card, more of them (--card 2x24), or a smaller model"
    )


def _fits(run: Mapping[str, Any]) -> bool:
    return all(run["fits"].values())


def _price(change: Mapping[str, str]) -> int:
    """Return the rank of a change among others of the estimate: 4 bits first, offloading last."""
    return 0 if "q_lora" in change else 2 if "offload" in change.get("deepspeed", "") else 1


def _settings_of(flags: Sequence[str]) -> dict[str, str]:
    return {name.removeprefix("--"): value for name, value in zip(flags[::2], flags[1::2], strict=True)}


def _describe(found: Answer, needed: int, changes: Mapping[str, str], cards: Cards) -> str:
    """Say what the run needs, and what it was changed for."""
    if cards.name == "cpu":
        return f"# Memory at the peak, as estimated: {format_bytes(needed)}. Activations are kept, which is faster.\n"
    whose = "of these data" if found.question.has_data else "that these settings allow"
    lines = [f"# Memory of each card at the peak, as estimated for the longest rows {whose}: {format_bytes(needed)}."]
    if changes:
        lines.append(f"# It would be {format_bytes(found.memory.total)} without {', '.join(changes)}.")
    lines += [
        f"# {name} needs bitsandbytes: {install_command(extra('qlora'))}"
        for name in changes
        if name in _NEED_BITSANDBYTES
    ]
    return "\n".join(lines) + "\n"
