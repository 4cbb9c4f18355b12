"""Text of generated rows: padding has the id of "!" from 2.5 on, and must not be taken for it, nor it for padding."""

from __future__ import annotations

import pytest
import torch

from minicpmv.processing.processor import MiniCPMVProcessor
from tests.unit.processing.conftest import END


def row(processor: MiniCPMVProcessor, answer: str, *, left: int, right: int, prompt: bool, end: bool) -> list[int]:
    ids = [0] * left
    if prompt:
        ids += processor.apply_chat_template([{"role": "user", "content": "Why?"}])["input_ids"][0].tolist()
    ids += processor.vocabulary.encode_plain(answer)
    if end:
        ids.append(processor.vocabulary[END[processor.version.name]])
    return ids + [0] * right


@pytest.mark.parametrize("answer", ["Yes!", "!", "No.", "!! no !!"])
def test_an_answer_keeps_its_exclamation_marks_and_loses_its_padding(processor: MiniCPMVProcessor, answer: str) -> None:
    whole = row(processor, answer, left=0, right=0, prompt=True, end=True)
    prompt = processor.post_process_image_text_to_text(
        processor.apply_chat_template([{"role": "user", "content": "Why?"}])["input_ids"]
    )[0]
    for left in (0, 3):
        padded = row(processor, answer, left=left, right=2, prompt=True, end=True)
        for ids in (padded, whole):
            assert processor.post_process_image_text_to_text(torch.tensor([ids])) == [prompt + answer]
    for right in (0, 2):
        ids = row(processor, answer, left=0, right=right, prompt=False, end=True)
        assert processor.post_process_image_text_to_text(ids) == [answer]
    unfinished = row(processor, answer, left=0, right=0, prompt=False, end=False)
    assert processor.post_process_image_text_to_text([unfinished]) == [answer]


def test_markup_stays_and_control_tokens_go(processor: MiniCPMVProcessor) -> None:
    vocabulary = processor.vocabulary
    ids = [vocabulary["<box>"], *vocabulary.encode_plain("1"), vocabulary["</box>"], vocabulary["<image>"]]
    assert processor.post_process_image_text_to_text([ids]) == ["<box>1</box>"]
    assert processor.post_process_image_text_to_text([ids], skip_special_tokens=False) == ["<box>1</box><image>"]


def test_nothing_is_an_empty_answer(processor: MiniCPMVProcessor) -> None:
    assert processor.post_process_image_text_to_text([[]]) == [""]
