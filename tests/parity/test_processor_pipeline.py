"""transformers' pipeline on a released directory: our code, the released answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import pipeline

from tests.parity.cases import FIXTURES, VERSIONS
from tests.parity.test_prompts import ENTRIES, thinking, with_paths

CODE = ("configuration_minicpm", "modeling_minicpmv", "resampler", "tokenization_minicpmv_fast")
CODE += ("processing_minicpmv", "image_processing_minicpmv")
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 12}


def load(folder: Path, **options: Any) -> Any:
    return pipeline("image-text-to-text", model=str(folder), dtype=torch.float32, device="cpu", **options)


@pytest.mark.parametrize("model", VERSIONS)
def test_pipeline_answers_as_the_released_chat(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / model
    shutil.copytree(FIXTURES / model, folder, ignore=shutil.ignore_patterns("cases*", "grads*", "inference*"))
    for name in CODE:
        (folder / f"{name}.py").write_text("raise RuntimeError('code of the directory was run')", encoding="utf-8")
    copies = tmp_path / "copies"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(copies))
    # True on the released snippets; unset, it must not ask either.
    trust: dict[str, Any] = {"trust_remote_code": True} if model in ("v2_6", "v4_5") else {}
    pipe = load(folder, **trust)
    assert not list(copies.rglob("*.py"))
    entry = next(entry for of, entry in ENTRIES if of == model and entry["name"] == "image_sliced")
    stored = load_file(FIXTURES / model / "inference.safetensors")
    (messages,) = [with_paths(entry["messages"], model)]
    options = {"generate_kwargs": GREEDY, **thinking(entry)}
    (result,) = pipe(text=messages, return_tensors=True, **options)
    prompt = stored["image_sliced/input_ids"].tolist()
    expected = stored["image_sliced/generated_ids"].tolist()
    assert result["generated_token_ids"].tolist()[: len(prompt) + len(expected)] == prompt + expected
    (result,) = pipe(text=messages, **options)
    answer = result["generated_text"][-1]
    assert answer == {"role": "assistant", "content": pipe.processor.post_process_image_text_to_text(expected)[0]}


def test_pipeline_goes_on_with_a_begun_answer_and_with_the_next_question() -> None:
    folder = FIXTURES / "v2_6"
    pipe = load(folder)
    with Image.open(folder / "images" / "sq_50x50.png") as file:
        picture = file.convert("RGB")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The image"}]},
    ]
    (result,) = pipe(text=messages, generate_kwargs=GREEDY)
    begun = result["generated_text"][-1]["content"][0]["text"]
    assert begun.startswith("The image")
    assert len(begun) > len("The image")
    question = {"role": "user", "content": [{"type": "text", "text": "And now?"}]}
    (result,) = pipe(text=[*messages, question], generate_kwargs=GREEDY, return_full_text=False)
    prompt = pipe.processor.apply_chat_template([*messages, question])
    with torch.no_grad():
        ids = pipe.model.generate(**prompt, **GREEDY)[0, prompt["input_ids"].shape[1] :]
    assert result["generated_text"] == pipe.processor.post_process_image_text_to_text(ids)[0]


@pytest.mark.parametrize("model", ["v2", "v4_5"])
def test_pipeline_answers_a_batch_as_one_by_one(model: str) -> None:
    """It joins the conversations itself, as the tokenizer says; 2.0's file says on the wrong side."""
    pipe = load(FIXTURES / model)
    names = ("image_unsliced", "image_sliced", "multi_turn")
    chats = [with_paths(entry["messages"], model) for of, entry in ENTRIES if of == model and entry["name"] in names]
    options: dict[str, Any] = {"return_full_text": False}
    alone = [pipe(text=chat, generate_kwargs=dict(GREEDY), **options)[0]["generated_text"] for chat in chats]
    batch = pipe(text=chats, batch_size=3, generate_kwargs=dict(GREEDY), **options)
    assert [result["generated_text"] for (result,) in batch] == alone
