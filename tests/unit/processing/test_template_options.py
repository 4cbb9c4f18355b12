"""What pipelines and trainers say to ``apply_chat_template``: accepted if it is done anyway, refused if not at all."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import UsageError
from minicpmv.processing.pictures.patches import ImageSource
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.template_options import _PASSING
from tests.tiny import picture

WIDE = picture(150, 80)


def ask(image: Any, text: str = "What?") -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def sources(folder: Path) -> dict[str, ImageSource]:
    file = folder / "a.png"
    WIDE.save(file)
    data = file.read_bytes()
    return {
        "image": WIDE,
        "path": file,
        "path as text": str(file),
        "bytes": data,
        "data URL": "data:image/png;base64," + base64.b64encode(data).decode(),
    }


def test_an_image_may_come_in_any_form(processor: MiniCPMVProcessor, tmp_path: Path) -> None:
    expected = processor.apply_chat_template(
        ask(WIDE), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    for form, source in sources(tmp_path).items():
        assert equal(processor.apply_chat_template(ask(source)), expected), form
    for part in (
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": str(tmp_path / "a.png"), "text": None},
        {"type": "image_url", "image_url": {"url": sources(tmp_path)["data URL"]}},
    ):
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
        assert equal(processor.apply_chat_template(messages), expected), part


def test_any_image_file_may_be_bytes(processor: MiniCPMVProcessor) -> None:
    buffer = io.BytesIO()
    WIDE.save(buffer, "BMP")
    assert equal(processor.apply_chat_template(ask(buffer.getvalue())), processor.apply_chat_template(ask(WIDE)))


def test_a_batch_of_conversations_with_and_without_images_is_padded_on_the_left(processor: MiniCPMVProcessor) -> None:
    conversations = [ask(WIDE), [{"role": "user", "content": "Hi!"}], ask(picture(40, 40), "And this?")]
    batch = processor.apply_chat_template(conversations, padding=True)
    alone = [processor.apply_chat_template(conversation) for conversation in conversations]
    for row, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][row, -length:], one["input_ids"][0])
        assert batch["attention_mask"][row].tolist() == [0] * (batch["input_ids"].shape[1] - length) + [1] * length
    for name in ("pixel_values", "tgt_sizes"):
        assert torch.equal(batch[name], torch.cat([one[name] for one in alone if name in one]))


@pytest.mark.parametrize("name", _PASSING)
def test_an_option_that_asks_for_what_is_done_anyway_passes(
    processors: dict[str, MiniCPMVProcessor], name: str
) -> None:
    processor = processors["v2_6"]
    expected = processor.apply_chat_template([ask(WIDE), ask(WIDE)])
    for value in _PASSING[name]:
        assert equal(processor.apply_chat_template([ask(WIDE), ask(WIDE)], **{name: value}), expected)
        assert equal(processor.apply_chat_template([ask(WIDE), ask(WIDE)], processor_kwargs={name: value}), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "max_length"}, "padding: found 'max_length', expected True or 'longest'"),
        ({"padding": False}, "padding: found False"),
        ({"padding_side": "right"}, "padding_side: found 'right', expected 'left'"),
        ({"truncation": True}, "truncation: found True.*\n  fix: .*text and images are never cut"),
        ({"max_length": 100}, "max_length: found 100, expected nothing"),
        ({"chat_template": "{{ messages }}"}, "the release's own format is written"),
        ({"tools": [{"name": "weather"}]}, r"conversation\[0\]: found tools, expected none: \S+ was trained without"),
        ({"documents": [{"text": "a"}]}, "put the documents into a user turn"),
        ({"return_assistant_tokens_mask": True}, "take the labels of processor.encode_conversation"),
        ({"add_special_tokens": True}, "the format has all it needs"),
        ({"num_frames": 8}, "num_frames: found an option that apply_chat_template does not know"),
        ({"processor_kwargs": {"max_length": 5}}, "max_length: found 5"),
        ({"processor_kwargs": {"images_kwargs": {}}}, "images_kwargs: found an option"),
    ],
)
def test_an_option_that_could_not_act_is_refused(
    processors: dict[str, MiniCPMVProcessor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        processors["v2_6"].apply_chat_template([ask(WIDE), ask(WIDE)], **options)
    assert "\n  fix: " in str(caught.value)


def test_one_conversation_needs_no_padding(processor: MiniCPMVProcessor) -> None:
    assert equal(processor.apply_chat_template(ask(WIDE), padding=False), processor.apply_chat_template(ask(WIDE)))


def test_processor_kwargs_may_hold_what_acts(processor: MiniCPMVProcessor) -> None:
    inputs = processor.apply_chat_template(ask(WIDE), processor_kwargs={"max_slice_nums": 1, "return_tensors": "np"})
    assert inputs["tgt_sizes"].shape == (1, 2)
    assert not isinstance(inputs["tgt_sizes"], torch.Tensor)


def test_an_answer_that_was_begun_goes_on(processor: MiniCPMVProcessor) -> None:
    begun = [*ask(WIDE), {"role": "assistant", "content": "The image shows"}]
    inputs = processor.apply_chat_template(begun, continue_final_message=True)
    ids = inputs["input_ids"][0].tolist()
    words = processor.tokenizer.encode("The image shows", add_special_tokens=False)
    assert ids[-len(words) :] == words
    with pytest.raises(UsageError, match="found it beside add_generation_prompt"):
        processor.apply_chat_template(begun, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reasoning_content", "b", r"\.reasoning_content: found a key that the format does not write"),
        ("tool_calls", ["b"], r"\.tool_calls\[0\]: found 'b', expected a list of calls"),
        ("tool_calls", [{"name": "b"}], ": found calls of tools, expected none"),
    ],
)
def test_a_key_of_a_message_that_would_be_lost_is_refused(
    processor: MiniCPMVProcessor, key: str, value: Any, message: str
) -> None:
    messages: list[dict[str, Any]] = [*ask(WIDE), {"role": "assistant", "content": "a", key: value}]
    with pytest.raises(UsageError, match=rf"conversation\[1\]{message}"):
        processor.apply_chat_template(messages, add_generation_prompt=False)
    messages[1][key] = None
    assert processor.apply_chat_template(messages, add_generation_prompt=False)
