"""Training tokens and labels against ``finetune/dataset.py``.

The official training text differs from the official prompts in a few places. There this package follows the prompts,
and each difference is a named transformation below, applied to what the official code made, so that nothing else can
differ.
Labels are compared with the clean ones: every answer token and one end token per answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from minicpmv.processing.processor import EncodedConversation, MiniCPMVProcessor
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.parity.cases import FIXTURES, VERSIONS
from tests.parity.test_prompts import bounds, processor_of

Tokens = list[tuple[int, int]]  # (id, label)

DIFFERENT = {
    "special_like_text": VERSIONS,  # the official code makes control tokens of text that spells them
    # The official code lets an answer's leading newline melt into the header, and puts this case's image behind the
    # blanks in its line instead of into one of its own. 2.5's format removes both.
    "whitespace": ("v2", "v2_6", "v4", "v4_5"),
}
"""Compared on their own below."""
CUT = ("too_long_text", "cut_whole_second_image")
"""The official code cuts these; here they are whole, so the official tokens are their beginning."""

END = {"v2": "</s>", "v2_5": "<|eot_id|>", "v2_6": "<|im_end|>", "v4": "<|im_end|>", "v4_5": "<|im_end|>"}
HEADS = {
    model: json.loads((FIXTURES / "preprocess" / f"conversations_{model}.json").read_text(encoding="utf-8"))
    for model in VERSIONS
}
CASES = [(model, case) for model in VERSIONS for case in HEADS[model]["cases"] if "official_error" not in case]
ALIKE = [(model, case) for model, case in CASES if model not in DIFFERENT.get(case["name"], ())]


def turns_of(case: dict[str, Any]) -> tuple[Turn, ...]:
    """Cut the texts at their placeholders; one newline on either side of a placeholder belongs to it."""
    tags = list(case["images"])
    turns: list[Turn] = []
    used = any(tag in message["content"] for message in case["conversations"] for tag in tags)
    for number, message in enumerate(case["conversations"]):
        parts: list[str | ImageRef] = [message["content"]]
        if message["role"] == "user":
            for index, tag in enumerate(tags):
                parts = [piece for part in parts for piece in _cut(part, tag, index)]
            if not used and number == 0:
                parts = [*(ImageRef(index) for index in range(len(tags))), *parts]
        turns.append(Turn(message["role"], tuple(parts)))
    return tuple(turns)


def _cut(part: str | ImageRef, tag: str, index: int) -> list[str | ImageRef]:
    if isinstance(part, ImageRef) or tag not in part:
        return [part]
    before, after = part.split(tag)
    pieces: list[str | ImageRef] = [before.removesuffix("\n"), ImageRef(index), after.removeprefix("\n")]
    return [piece for piece in pieces if piece != ""]


def encode(processor: MiniCPMVProcessor, model: str, case: dict[str, Any]) -> EncodedConversation:
    head = HEADS[model]
    files = [FIXTURES / "preprocess" / head["images"][name] for name in case["images"].values()]
    return processor.encode_conversation(turns_of(case), files)


def begin_with_bos(tokens: Tokens, processor: MiniCPMVProcessor) -> Tokens:
    """2.0 is trained without the BOS that every prompt has."""
    return [(processor.vocabulary["<s>"], -100), *tokens]


def number_every_image(tokens: Tokens, processor: MiniCPMVProcessor) -> Tokens:
    """2.6 is trained with numbers before sliced images only, counting those; prompts number every image."""
    vocabulary = processor.vocabulary
    opening, closing, image = (vocabulary[token] for token in ("<image_id>", "</image_id>", "<image>"))
    numbered: Tokens = []
    inside = False
    count = 0
    for token in tokens:
        if token[0] == image:
            ids = [opening, *vocabulary.encode_plain(str(count)), closing]
            numbered += [(index, -100) for index in ids]
            count += 1
        inside = (inside or token[0] == opening) and token[0] != closing
        if not inside and token[0] != closing:
            numbered.append(token)
    return numbered


def join_parts_with_one_newline(tokens: Tokens, processor: MiniCPMVProcessor) -> Tokens:
    """Several images, or one under a key like <image_00>, get a newline in training even where the text has its own."""
    vocabulary = processor.vocabulary
    one, two = vocabulary.encode_plain("\n"), vocabulary.encode_plain("\n\n")
    ends = (vocabulary["</image>"], vocabulary["</slice>"])
    user = vocabulary.encode_plain("<用户>")
    ids = [index for index, _ in tokens]
    joined: Tokens = []
    position = 0
    while position < len(tokens):
        after_image = position > 0 and ids[position - 1] in ends
        if processor.use_image_id:  # ChatML: its header ends in a newline, which melts with the one before an image
            after_image |= ids[position + len(two) : position + len(two) + 1] == [vocabulary["<image_id>"]]
        if after_image and ids[position : position + len(two)] == two:
            joined += [(index, -100) for index in one]
            position += len(two)
        elif ids[position - len(user) : position] == user and ids[position] == one[0]:  # 2.0's header ends in none
            position += 1
        else:
            joined.append(tokens[position])
            position += 1
    return joined


TRANSFORMATIONS: dict[str, list[Callable[[Tokens, MiniCPMVProcessor], Tokens]]] = {
    "v2": [begin_with_bos],
    "v2_5": [],
    "v2_6": [number_every_image],
    "v4": [number_every_image],
    "v4_5": [number_every_image],
}
JOINED = ("multi_image", "single_image_dict_other_key", "cut_whole_second_image")


@pytest.mark.parametrize(
    ("model", "case"),
    ALIKE,
    ids=[f"{model}-{case['name']}" for model, case in ALIKE],
)
def test_training_tokens_equal_the_official_ones_but_for_what_is_named(model: str, case: dict[str, Any]) -> None:
    processor = processor_of(model)
    expected: Tokens = list(zip(case["input_ids"], case["labels_clean"], strict=True))
    for transform in TRANSFORMATIONS[model]:
        expected = transform(expected, processor)
    if case["name"] in JOINED:
        expected = join_parts_with_one_newline(expected, processor)
    sample = encode(processor, model, case)
    ours: Tokens = list(zip(sample.input_ids, sample.labels, strict=True))
    if case["name"] in CUT:
        if case["name"] in JOINED and model != "v2_5":  # whose format removes it
            expected = expected[:-1]  # the newline that the official text adds before the image it then cuts off
        assert len(ours) > len(expected)
        ours = ours[: len(expected)]
    assert ours == expected


@pytest.mark.parametrize(("model", "case"), CASES, ids=[f"{model}-{case['name']}" for model, case in CASES])
def test_slices_and_slots_equal_the_official_ones(model: str, case: dict[str, Any]) -> None:
    processor = processor_of(model)
    sample = encode(processor, model, case)
    assert len(sample.tgt_sizes) == case["n_slices"]
    if model != "v2":  # whose official code has no sizes
        assert [list(size) for size in sample.tgt_sizes] == case["tgt_sizes"]
    runs = bounds(sample.image_mask)
    assert [end - start for start, end in runs] == [processor.query_num] * case["n_slices"]
    assert len(sample.pixel_values) == sum(rows * columns for rows, columns in sample.tgt_sizes)


def case_named(model: str, name: str) -> dict[str, Any]:
    return next(case for case in HEADS[model]["cases"] if case["name"] == name)


@pytest.mark.parametrize("model", VERSIONS)
def test_text_that_spells_control_tokens_stays_text(model: str) -> None:
    """The official code ends the turn, or opens another, wherever a text spells it."""
    processor, case = processor_of(model), case_named(model, "special_like_text")
    sample = encode(processor, model, case)
    end = processor.vocabulary[END[model]]
    # One for each message where the format writes it; 2.6 and 4.0 with their system turn.
    written = {"v2": 1, "v2_5": 2, "v2_6": 3, "v4": 3, "v4_5": 2}[model]
    assert sample.input_ids.count(end) == written < case["input_ids"].count(end)
    assert sample.labels.count(end) == 1
    answer = [label for label in sample.labels if label != -100][:-1]
    assert processor.decode(answer) == case["conversations"][1]["content"]


@pytest.mark.parametrize(
    ("model", "answer"),
    [("v2", None), ("v2_5", "spaced answer"), ("v2_6", None), ("v4", None), ("v4_5", "  spaced answer  \n")],
)
def test_white_space_of_answers_is_trained_as_written(model: str, answer: str | None) -> None:
    """2.5's format removes white space around every message, 4.5's line breaks after thinking; the others keep all."""
    processor, case = processor_of(model), case_named(model, "whitespace")
    sample = encode(processor, model, case)
    trained = [label for label in sample.labels if label != -100]
    assert processor.decode(trained[:-1]) == (answer or case["conversations"][1]["content"])
    if answer is not None:
        assert trained == [label for label in case["labels_clean"] if label != -100]


@pytest.mark.parametrize("model", VERSIONS)
def test_what_the_official_code_refuses_or_replaces_is_encoded(model: str) -> None:
    """Its exceptions make it train on some other, random record instead."""
    processor = processor_of(model)
    names = ["unk_and_image_close_in_text", "too_long_cuts_image", "cut_right_before_image_end_token"]
    names += ["system_role"] if model != "v2" else []
    for name in names:
        case = case_named(model, name)
        assert case["official_error"]
        sample = encode(processor, model, case)
        trained = [label for label in sample.labels if label != -100]
        answers = "".join(message["content"] for message in case["conversations"] if message["role"] == "assistant")
        assert processor.decode(trained).replace(END[model], "") == answers
        assert sum(sample.image_mask) == len(sample.tgt_sizes) * processor.query_num
