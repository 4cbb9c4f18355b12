"""Prompts of 4.6 and 4.7 against stored ones: ids, image slots, sizes and positions, in both modes; and refusals."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from minicpmv.errors import UsageError
from minicpmv.processing.encoding import EncodedConversation, write_conversation
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.shown import ShownFilm
from minicpmv.processing.pictures.canvas import WrittenBlock, place_on_canvas
from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Turn
from minicpmv.releases.table import VERSIONS
from tests.parity.cases import FIXTURES

MODELS = ("v4_6", "v4_7")
SIDES = VERSIONS["4.6"].reading.downsample_modes


def stored(model: str, file: str) -> dict[str, Any]:
    return json.loads((FIXTURES / model / f"{file}.json").read_text(encoding="utf-8"))


PROMPTS = [
    pytest.param(model, mode, entry, id=f"{model}-{entry['name']}-{mode}")
    for model in MODELS
    for entry in stored(model, "prompts")["prompts"]
    for mode in entry.get("modes", ())
]
REFUSED = [(model, entry) for model in MODELS for entry in stored(model, "prompts")["prompts"] if "error" in entry]


@functools.cache
def processor_of(model: str, mode: str) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / model, downsample_mode="16x" if mode == "any" else mode)


def read(messages: list[dict[str, Any]], model: str) -> tuple[list[Turn], list[Image.Image], list[list[Image.Image]]]:
    """Read stored messages, with the frames of each film; a thought as it is written into a content."""
    pictures: list[Image.Image] = []
    films: list[list[Image.Image]] = []
    turns: list[Turn] = []

    def opened(name: str) -> Image.Image:
        return Image.open(FIXTURES / model / name).convert("RGB")

    for message in messages:
        content: list[Part] = []
        parts = message["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            if part["type"] == "text":
                content.append(part["text"])
            elif part["type"] == "image":
                content.append(ImageRef(len(pictures)))
                pictures.append(opened(part["image"]))
            else:
                content.append(FilmRef(len(films)))
                films.append([opened(frame) for frame in part["video"]])
        if "reasoning_content" in message:
            content = [f"<think>\n{message['reasoning_content']}\n</think>\n\n{content[0]}"]
        turns.append(Turn(message["role"], tuple(content)))
    return turns, pictures, films


def encode(model: str, mode: str, entry: dict[str, Any], *, prompt: bool) -> EncodedConversation:
    processor = processor_of(model, mode)
    turns, pictures, films = read(entry["messages"], model)
    plans = [FilmPlan(times=tuple(map(float, range(len(frames)))), size=frames[0].size) for frames in films]
    written = write_conversation(
        turns,
        [picture.size for picture in pictures],
        processor.image_processor,
        processor.version,
        films=plans,
        use_image_id=entry.get("use_image_id", True),
        max_slice_nums=entry.get("max_slice_nums"),
        add_generation_prompt=prompt,
        enable_thinking=entry.get("enable_thinking", False) if prompt else None,
    )
    shown = [
        ShownFilm(plan, lambda convert, frames=frames: [convert(each) for each in frames])
        for plan, frames in zip(plans, films, strict=True)
    ]
    return written.encode(processor.vocabulary, pictures, shown)


@pytest.mark.parametrize(("model", "mode", "entry"), PROMPTS)
def test_prompt_equals_the_stored_one(model: str, mode: str, entry: dict[str, Any]) -> None:
    expected = entry["modes"][mode]
    sample = encode(model, mode, entry, prompt=entry["add_generation_prompt"])
    assert sample.input_ids == expected["input_ids"]
    assert sample.input_ids != expected.get("naive_ids"), "a control word that somebody typed became a token"
    frames = [frame for visual in expected.get("visuals", ()) for frame in visual["frames"]]
    assert sample.tgt_sizes == [tuple(size) for frame in frames for size in frame["target_sizes"]]
    assert sum(sample.image_mask) == sum(sum(frame["tokens"]) for frame in frames)
    if model == "v4_6":
        assert sample.position_rows is None
    else:
        assert sample.position_rows is not None
        plain = [list(range(len(sample.input_ids)))] * 3  # text alone counts on in all three
        assert sample.position_rows.tolist() == expected.get("position_ids", plain)


@pytest.mark.parametrize(("model", "entry"), REFUSED, ids=[f"{model}-{entry['name']}" for model, entry in REFUSED])
def test_what_the_template_refuses_is_refused(model: str, entry: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"in a turn of role 'system'|no user turn"):
        encode(model, "16x", entry, prompt=True)


CASES = [
    pytest.param(model, case, id=f"{model}-{case['name']}")
    for model in MODELS
    for case in stored(model, "cases")["cases"]
]


@functools.cache
def tensors(model: str) -> dict[str, np.ndarray]:
    return load_file(FIXTURES / model / "cases.safetensors")


@pytest.mark.parametrize(("model", "case"), CASES)
def test_training_row_and_prompt_equal_the_stored_ones(model: str, case: dict[str, Any]) -> None:
    """Tokens, labels, positions, sizes and pixels; the prompt is the same conversation without its last answer."""
    name, mode, known = case["name"], case["mode"], tensors(model)
    sample = encode(model, mode, case, prompt=False)
    assert sample.input_ids == known[f"{name}/input_ids"].tolist()
    assert sample.labels == known[f"{name}/labels"].tolist()
    if case["pixels"]:
        assert np.array_equal(sample.pixel_values, np.concatenate([known[key] for key in case["pixels"]]))
        assert np.array_equal(sample.tgt_sizes, known[f"{name}/target_sizes"])
    asked = case | {"messages": case["messages"][:-1], "enable_thinking": case["prompt"]["enable_thinking"]}
    prompt = encode(model, mode, asked, prompt=True)
    assert prompt.input_ids == known[f"{name}/prompt_ids"].tolist()
    for encoded, key in ((sample, "position_ids"), (prompt, "prompt_position_ids")):
        if model == "v4_7":
            assert encoded.position_rows is not None
            assert np.array_equal(encoded.position_rows, known[f"{name}/{key}"])


@pytest.mark.parametrize("model", MODELS)
def test_plans_equal_the_released_grids(model: str) -> None:
    rows = stored(model, "grids")["rows"]
    assert {row[3] for row in rows} == {"16x", "4x"}
    assert len(rows) == 1600
    for width, height, limit, mode, grid, overview, tile in rows:
        plan = plan_slices(width, height, SliceConfig(token_side=SIDES[mode], max_slice_nums=limit))
        found = [list(size) if size else None for size in (plan.grid, plan.source_size, plan.slice_size)]
        assert found == [grid, overview, tile], (width, height, limit, mode)


GOLDEN = stored("v4_7", "cases")["golden_positions"]


@pytest.mark.parametrize("row", GOLDEN, ids=[row["name"] for row in GOLDEN])
def test_positions_equal_the_golden_rows(row: dict[str, Any]) -> None:
    """The rows hold bare ids; what a processor knows from writing is found in them here."""
    ids = row["input_ids"]
    sizes = iter([[rows // 4, columns // 4] for rows, columns in row["target_sizes"] + row["target_sizes_videos"]])
    blocks: list[dict[str, Any]] = []
    for place, token in enumerate(ids):
        if token == 377:
            blocks.append({"slots": [place + 1], "sizes": [next(sizes)], "columns": 0})
        elif token == 379:
            block = blocks[-1]
            block["columns"] += 198 not in ids[block["slots"][0] : place]
            block["slots"].append(place + 1)
            block["sizes"].append(next(sizes))
    rows = place_on_canvas(ids, [WrittenBlock(**block) for block in blocks], newline=198)
    assert rows.tolist() == [row["T"], row["H"], row["W"]]
    assert rows.max() + 1 - len(ids) == row["delta"]
