"""Lays out the controls next to the conversation: settings of answers, and the instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio

from minicpmv.errors import UsageError
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answering.answers import released_options
from minicpmv.processing.text.chat import roles_of
from minicpmv.releases.table import Version
from minicpmv.ui.settings import PageSettings

__all__ = ["Chosen", "Controls"]

_MOST_DIGITS = 18
_UNSET = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
"""Defaults of transformers, for settings that a release does not state."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Holds the values of the controls."""

    settings: GenerationSettings
    system: str | None
    seed: int | None


class Controls:
    """Lays out the controls where it is constructed.

    Args:
        models: The models that answer. A feature that one of them lacks has no control.
        settings: Initial values.
    """

    def __init__(self, models: Sequence[LoadedModel], settings: PageSettings) -> None:
        versions = [loaded.processor.version for loaded in models]
        self._version = versions[0]
        released = _released(self._version, settings.enable_thinking)
        self.system = gradio.Textbox(
            settings.system or "",
            label="System prompt",
            lines=2,
            max_lines=6,
            visible=all("system" in roles_of(version) for version in versions),
        )
        self.thinking = gradio.Checkbox(
            settings.enable_thinking,
            label="Think before answering",
            visible=all(version.reading.thinking for version in versions),
        )
        self.max_new_tokens = gradio.Slider(
            1, max(4096, settings.max_new_tokens), settings.max_new_tokens, step=1, label="Longest answer"
        )
        # Text boxes, because Gradio's number box is never empty.
        self.max_slice_nums = gradio.Textbox(
            "" if settings.max_slice_nums is None else str(settings.max_slice_nums),
            label="Most tiles of an image",
            placeholder="as the model was made",
            max_lines=1,
        )
        self.sample = gradio.Checkbox(False, label="Sample", info="Off: always the likeliest token.", elem_id="sample")
        with gradio.Group(visible=False, elem_id="sampling") as drawn:
            self.temperature = gradio.Slider(0.05, 2, released["temperature"], step=0.05, label="Temperature")
            self.top_p = gradio.Slider(0.05, 1, released["top_p"], step=0.05, label="Top p")
            self.top_k = gradio.Slider(1, 200, released["top_k"], step=1, label="Top k")
            self.repetition_penalty = gradio.Slider(
                1, 2, released["repetition_penalty"], step=0.01, label="Repetition penalty"
            )
            self.seed = gradio.Textbox(label="Seed", placeholder="random", max_lines=1)
        self.sample.change(
            lambda is_drawn: gradio.Group(visible=is_drawn),
            self.sample,
            drawn,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        sliders = [self.temperature, self.top_p, self.top_k, self.repetition_penalty]
        self.thinking.change(
            lambda is_thinking: list(_released(self._version, is_thinking).values()),
            self.thinking,
            sliders,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        self.components = [
            *(self.system, self.thinking, self.max_new_tokens, self.max_slice_nums, self.sample),
            *(*sliders, self.seed),
        ]

    def read(self, given: Mapping[Any, Any]) -> Chosen:
        """Return the chosen settings from the components' values.

        Raises:
            UsageError: One of them is not a number.
        """
        is_drawn = bool(given[self.sample])
        drawn: dict[str, Any] = {}
        if is_drawn:
            drawn = {name: _number(given[getattr(self, name)], getattr(self, name)) for name in _UNSET}
        settings = GenerationSettings(
            max_new_tokens=int(_number(given[self.max_new_tokens], self.max_new_tokens)),
            max_slice_nums=_whole_number(given[self.max_slice_nums], self.max_slice_nums.label, least=1),
            enable_thinking=bool(given[self.thinking]),
            sample=is_drawn,
            **drawn,
        )
        seed = _whole_number(given[self.seed], self.seed.label, least=0) if is_drawn else None
        system = given[self.system]
        return Chosen(settings, system.strip() or None if isinstance(system, str) else None, seed)


# Messages here do not repeat the found value: its sender knows it, and an attacker may want to see it reflected.


def _whole_number(given: object, where: object, *, least: int) -> int | None:
    text = given.strip() if isinstance(given, str) else "?"
    if not text:
        return None
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < least:
        raise UsageError(
            f"{where}: found something else, expected a whole number of at least {least}, or nothing\n"
            f"  fix: type {max(least, 1)}, or empty the field"
        )
    return int(text)


def _number(given: object, slider: gradio.Slider) -> float:
    if isinstance(given, (int, float)) and not isinstance(given, bool) and slider.minimum <= given <= slider.maximum:
        return given
    raise UsageError(
        f"{slider.label}: found something else, expected a number from {slider.minimum} to {slider.maximum}\n"
        "  fix: choose a number with the slider"
    )


def _released(version: Version, is_thinking: bool) -> dict[str, Any]:
    released = released_options(version, sampling=True, enable_thinking=is_thinking)
    return {name: released.get(name, unset) for name, unset in _UNSET.items()}
