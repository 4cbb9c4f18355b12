"""The template in a GGUF file, given what llama.cpp gives it, writes the prompt that this package writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image

from minicpmv.export.gguf.template import chat_template
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.tiny import FIXTURES, picture

_SLICES = re.compile(r"<image>(<unk>)+</image>")
_MARKS = ("<__media__>", "<__media_YoNhud46VdDqbuFmKYEO9PY7A4ARzRfg__>")  # llama.cpp's tools and its server


@pytest.fixture(scope="module", params=["v2_5", "v2_6", "v4", "v4_5"])
def processor(request: pytest.FixtureRequest) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / request.param)


def _ours(processor: MiniCPMVProcessor, messages: list[dict[str, Any]], mark: str) -> str:
    """Our prompt, with the mark where llama.cpp puts the tokens of the picture's one slice."""
    return _SLICES.sub(mark, processor.apply_chat_template(messages, tokenize=False))


def _theirs(processor: MiniCPMVProcessor, messages: list[dict[str, Any]], **settings: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as llama.cpp renders
    template = chat_template(processor)
    assert template is not None
    thinking = {"enable_thinking": False} if processor.version.reading.thinking else {}
    return environment.from_string(template).render(
        messages=messages, add_generation_prompt=True, bos_token=processor.tokenizer.bos_token, **thinking, **settings
    )


def _asked(*parts: str | Image.Image) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("mark", _MARKS)
def test_two_pictures_in_two_turns(processor: MiniCPMVProcessor, mark: str) -> None:
    tile = picture(56, 56)
    answered = [{"role": "assistant", "content": "A cat > a dog."}]
    ours = [*_asked(tile, "What is this?"), *answered, *_asked("And", tile, "here?")]
    texts = [f"{mark}What is this?", "A cat > a dog.", f"And{mark}here?"]  # joined as its server joins the parts
    theirs = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts, strict=True)]
    assert _theirs(processor, theirs) == _ours(processor, ours, mark)


def test_parts_that_are_not_joined_yet(processor: MiniCPMVProcessor) -> None:
    tile, mark = picture(56, 56), _MARKS[0]
    parts = [{"type": "text", "text": mark}, {"type": "text", "text": mark}, {"type": "text", "text": "Both?"}]
    assert _theirs(processor, [{"role": "user", "content": parts}]) == _ours(
        processor, _asked(tile, tile, "Both?"), mark
    )


def test_line_breaks_that_are_there_are_not_doubled(processor: MiniCPMVProcessor) -> None:
    mark = _MARKS[0]
    theirs = _theirs(processor, [{"role": "user", "content": f"{mark}\nWhat is this?"}])
    assert theirs == _ours(processor, _asked(picture(56, 56), "What is this?"), mark)


def test_text_alone_is_as_in_the_checkpoints_own_template(processor: MiniCPMVProcessor, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello <b>you</b>"}]
    assert _theirs(processor, messages) == processor.apply_chat_template(messages, tokenize=False)
