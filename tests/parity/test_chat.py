"""``model.chat()`` against what the released ``chat()`` answered, called as the official examples call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

import minicpmv  # noqa: F401 # registers the model
from tests.parity.cases import FIXTURES, VERSIONS

ENTRIES: list[tuple[str, dict[str, Any]]] = [
    (version, entry)
    for version in VERSIONS
    for entry in json.loads((FIXTURES / version / "inference.json").read_text(encoding="utf-8"))["entries"]
]
GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 12}


class Recorder:
    """A model and its tokenizer, noting what it generates from and what comes of it."""

    def __init__(self, version: str) -> None:
        options = {"trust_remote_code": True, "attn_implementation": "sdpa", "torch_dtype": torch.float32}
        self.model = AutoModel.from_pretrained(FIXTURES / version, **options).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(FIXTURES / version, trust_remote_code=True)
        self.inputs: dict[str, Any] = {}
        self.drawn: list[list[int]] = []
        generate = self.model.generate

        def noting(**inputs: Any) -> torch.Tensor:
            generated = generate(**inputs)
            self.inputs = inputs
            self.drawn = generated[:, inputs["input_ids"].shape[1] :].tolist()
            return generated

        self.model.generate = noting


@pytest.fixture(scope="module")
def recorders() -> dict[str, Recorder]:
    return {version: Recorder(version) for version in VERSIONS}


def official_form(messages: list[dict[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Stored messages as PIL images and strings in ``content``, and the system prompt."""
    msgs: list[dict[str, Any]] = []
    for message in messages:
        content: list[Any] = [
            Image.open(folder / part["image"]).convert("RGB") if part["type"] == "image" else part["text"]
            for part in message["content"]
        ]
        msgs.append({"role": message["role"], "content": content})
    system = msgs.pop(0)["content"][0] if msgs[0]["role"] == "system" else ""
    return msgs, system


def ask(recorder: Recorder, version: str, entry: dict[str, Any]) -> list[str]:
    folder = FIXTURES / version
    given: dict[str, Any] = {"tokenizer": recorder.tokenizer, **GREEDY}
    if "batch" in entry:
        batch = [official_form(messages, folder)[0] for messages in entry["batch"]]
        return recorder.model.chat(image=None, msgs=batch, **given)
    msgs, system = official_form(entry["messages"], folder)
    if system:
        given["system_prompt"] = system
    if entry.get("enable_thinking"):
        given["enable_thinking"] = True
    if version not in ("v2", "v2_5"):
        return [recorder.model.chat(image=None, msgs=msgs, **given)]
    # The examples of 2.0 and 2.5 have one image, beside the messages, whose contents are strings.
    image, first = None, msgs[0]["content"]
    if len(first) == 2 and isinstance(first[0], Image.Image):
        image, msgs[0]["content"] = first
    if version == "v2_5":
        return [recorder.model.chat(image=image, msgs=msgs, **given)]
    for message in msgs:
        message["content"] = message["content"] if isinstance(message["content"], str) else message["content"][0]
    answer, context, settings = recorder.model.chat(image=image, msgs=json.dumps(msgs), context=None, **given)
    assert context == [*msgs, {"role": "assistant", "content": answer}]
    assert settings == {"num_beams": 1, "repetition_penalty": 1.0}
    return [answer]


@pytest.mark.parametrize(("version", "entry"), ENTRIES, ids=[f"{name}-{entry['name']}" for name, entry in ENTRIES])
def test_answers_are_the_released_ones(recorders: dict[str, Recorder], version: str, entry: dict[str, Any]) -> None:
    recorder = recorders[version]
    answers = ask(recorder, version, entry)
    stored = load_file(FIXTURES / version / "inference.safetensors")[f"{entry['name']}/generated_ids"]
    ids = stored.reshape(len(answers), -1).tolist()
    assert recorder.drawn == ids
    released = entry["generated_text"] if "batch" in entry else [entry["generated_text"]]
    if version == "v2" or not any(0 in row for row in ids):
        assert answers == released
        return
    # The released code drops every id 0 as padding. From 2.5 on that is "!", which is kept here.
    decode, opening = recorder.tokenizer.decode, "<think>\n" if entry.get("enable_thinking") else ""
    assert released == [opening + decode([token_id for token_id in row if token_id]).strip() for row in ids]
    assert answers == [opening + decode(row).strip() for row in ids]
    assert any("!" in answer for answer in answers)


def test_frames_of_a_video_are_given_as_in_the_examples_of_4_5(recorders: dict[str, Recorder]) -> None:
    """NumPy groups of time indices, as the example makes them; the model sees each group as one block."""
    recorder = recorders["v4_5"]
    frames = [Image.open(FIXTURES / "v4_5" / "images" / "sq_50x50.png").convert("RGB").rotate(k) for k in range(5)]
    times = np.round(np.array([0.0, 0.2, 0.4, 0.6, 0.8]) / 0.1).astype(np.int32)
    groups = [times[:3], times[3:]]
    msgs = [{"role": "user", "content": [*frames, "What happens?"]}]
    given = {"msgs": msgs, "tokenizer": recorder.tokenizer, "use_image_id": False, "max_slice_nums": 1, **GREEDY}
    recorder.model.chat(**given, temporal_ids=groups)
    assert recorder.inputs["temporal_ids"].tolist() == [[1, 0], [0, 2], [0, 4], [1, 6], [0, 8]]
    assert int(recorder.inputs["image_mask"].sum()) == 2 * recorder.model.config.query_num
    recorder.model.chat(**given)
    assert int(recorder.inputs["image_mask"].sum()) == 5 * recorder.model.config.query_num
