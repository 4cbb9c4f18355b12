"""Settings, thinking and what a conversation remembers. Answers of whole commands are compared in tests/run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import UsageError
from minicpmv.inference import generation
from minicpmv.inference.chat import Conversation
from minicpmv.inference.generation import GenerationSettings, answer, answer_batch
from minicpmv.inference.loading import LoadedModel, find_version, load_model
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES, conversation

IMAGE = FIXTURES / "v4_5" / "images" / "sq_50x50.png"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(FIXTURES / "v4_5")


def test_greedy_answers_need_no_other_setting() -> None:
    assert GenerationSettings().options(VERSIONS["4.5"]) == {"max_new_tokens": 1024}


@pytest.mark.parametrize(("version", "penalty"), [("2.0", 1.05), ("2.6", 1.05), ("4.5", 1.03)])
def test_sampling_has_the_released_values_unless_others_are_given(version: str, penalty: float) -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 100, "repetition_penalty": penalty}
    assert GenerationSettings(sample=True).options(VERSIONS[version]) == {"max_new_tokens": 1024, **sampled}
    given = GenerationSettings(sample=True, top_k=7, repetition_penalty=1.5).options(VERSIONS[version])
    assert given == {"max_new_tokens": 1024, **sampled, "top_k": 7, "repetition_penalty": 1.5}


def test_sampling_with_thinking_sets_a_temperature_alone() -> None:
    options = GenerationSettings(sample=True, enable_thinking=True).options(VERSIONS["4.5"])
    assert options == {"max_new_tokens": 1024, "do_sample": True, "temperature": 0.7}


def test_a_checkpoint_s_generation_config_does_not_make_greedy_answers_random(loaded: LoadedModel) -> None:
    """4.5's file says do_sample, top_k 20 and temperature 0.6."""
    assert loaded.model.generation_config.do_sample
    said = {answer(loaded, conversation("Hi"), settings=GenerationSettings(max_new_tokens=8)) for _ in range(3)}
    assert len(said) == 1


@pytest.mark.parametrize(("thinking", "name"), [(True, "thinking"), (False, "image_unsliced")])
def test_thinking_answers_as_the_released_model(loaded: LoadedModel, thinking: bool, name: str) -> None:
    entries = json.loads((FIXTURES / "v4_5" / "inference.json").read_text(encoding="utf-8"))["entries"]
    released = next(entry["generated_text"] for entry in entries if entry["name"] == name)
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": str(IMAGE)}, {"type": "text", "text": "What is in the image?"}],
        }
    ]
    pieces: list[str] = []
    settings = GenerationSettings(max_new_tokens=12, enable_thinking=thinking)
    said = answer(loaded, messages, settings=settings, on_text=pieces.append)
    assert (pieces[0] == "<think>\n") is thinking
    assert "".join(pieces).strip() == said
    if thinking:
        assert said == released
    else:  # the released code loses every "!", and with it where a character begins
        assert said.count("!") == 3
    assert answer_batch(loaded, [messages, conversation("Hi")], settings=settings)[0] == said


def test_without_a_cache_the_answer_is_the_same(loaded: LoadedModel) -> None:
    """As 2.5's config has it, and as transformers then writes it into a saved generation_config.json."""
    content = [{"type": "image", "image": str(IMAGE)}, {"type": "text", "text": "What is this?"}]
    inputs = loaded.processor.apply_chat_template([{"role": "user", "content": content}])
    options = {"do_sample": False, "max_new_tokens": 4}
    model: Any = loaded.model
    cached, uncached = (model.generate(**inputs, **options, use_cache=use).tolist() for use in (True, False))
    assert uncached == cached


def test_thinking_is_refused_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="expected a version with a thinking mode"):
        answer(load_model(FIXTURES / "v2_6"), conversation("Hi"), settings=GenerationSettings(enable_thinking=True))


def test_a_conversation_shows_no_thoughts_of_earlier_answers(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = loaded.processor.tokenizer
    thought = tokenizer("A tail.\n</think>\n\nA cat.<|im_end|>", add_special_tokens=False)["input_ids"]
    prompts: list[str] = []

    def draw(model: Any, inputs: Mapping[str, Any], **options: Any) -> list[Any]:
        prompts.append(str(tokenizer.decode(inputs["input_ids"][0])))
        return [thought]

    monkeypatch.setattr(generation, "generate_answers", draw)
    talk = Conversation(loaded, settings=GenerationSettings(enable_thinking=True))
    assert talk.ask("What is it?", [IMAGE]) == "<think>\nA tail.\n</think>\n\nA cat."
    talk.ask("Which colour?")
    assert prompts[0].endswith("<|im_start|>assistant\n<think>\n")
    assert "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nWhich colour?" in prompts[1]
    assert "tail" not in prompts[1]


def test_the_version_is_told_without_weights(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((FIXTURES / "v4_5" / "config.json").read_bytes())
    assert find_version(base) is VERSIONS["4.5"]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}), encoding="utf-8")
    assert find_version(adapter) is VERSIONS["4.5"]
