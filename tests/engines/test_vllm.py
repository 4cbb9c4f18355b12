"""vLLM's build for CPUs loads our directories through the plugin, without code of theirs, and answers as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from minicpmv.inference.loading import LoadedModel, load_model
from tests.engines.conftest import Drive
from tests.engines.ours import IMAGE_BLOCK, Asked, ask, distance
from tests.exportable import write_exportable
from tests.tiny import save_picture

pytestmark = pytest.mark.engines

_LLM_ATTENTION = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


def _prompt(loaded: LoadedModel, question: str, picture: str) -> str:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return IMAGE_BLOCK.sub("(<image>./</image>)", text)


def _ask_both(
    drive: Drive, model: Path, asks: list[tuple[str, str]], adapter: Path | None = None
) -> tuple[list[Asked], list[dict[str, Any]]]:
    loaded = load_model(adapter or model, device="cpu")
    request = {
        "model": str(model),
        "adapter": None if adapter is None else str(adapter),
        "max_new_tokens": 8,
        "end_ids": loaded.end_token_ids(),
        "asks": [{"prompt": _prompt(loaded, *one), "images": [one[1]]} for one in asks],
    }
    result = drive("vllm", request)
    theirs = [{key: result[f"{key}_{index}"] for key in ("tokens", "logprobs", "answer")} for index in range(len(asks))]
    return [ask(loaded, *one, max_new_tokens=8) for one in asks], theirs


def _compare(ours: list[Asked], theirs: list[dict[str, Any]], slot: int) -> float:
    """Hold tokens and answers to be the same; return the largest difference of log probabilities."""
    largest = 0.0
    for our, their in zip(ours, theirs, strict=True):
        assert their["tokens"].tolist() == [slot if token == -1 else token for token in our.tokens]
        assert their["answer"].tolist() == our.answer
        expected = torch.from_numpy(our.logits).log_softmax(-1).numpy()
        largest = max(largest, float(np.abs(their["logprobs"] - expected).max()))
    return largest


def test_the_tuned_demo_answers_alike(drive: Drive, demo: Path, heldout: list[tuple[str, str]]) -> None:
    ours, theirs = _ask_both(drive, demo / "full", heldout)
    slot = load_model(demo / "full", device="cpu").processor.vocabulary["<unk>"]
    assert _compare(ours, theirs, slot) < 1e-3
    assert len({tuple(our.answer) for our in ours}) == 10  # every digit: it has learned


def test_a_random_model_of_4_5_answers_alike(drive: Drive, tmp_path: Path) -> None:
    model = write_exportable(tmp_path / "v4_5", "v4_5")
    asks = [
        ("What is this?", save_picture(tmp_path / "one.png", 56, 56)),
        ("the cat on 12 mats!", save_picture(tmp_path / "wide.png", 150, 80, seed=1)),  # an overview and slices
    ]
    ours, theirs = _ask_both(drive, model, asks)
    slot = load_model(model, device="cpu").processor.vocabulary["<unk>"]
    assert ours[1].tokens.count(-1) > ours[0].tokens.count(-1)
    assert _compare(ours, theirs, slot) < 1e-3


# PEFT asks transformers under the old name; may go with the PEFT that asks under the new one.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_of_the_language_model_is_loaded_as_it_is(drive: Drive, demo: Path, tmp_path: Path) -> None:
    loaded = load_model(demo / "full", device="cpu")
    torch.manual_seed(0)
    adapted: Any = get_peft_model(loaded.model, LoraConfig(r=8, target_modules=_LLM_ATTENTION, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    picture = save_picture(tmp_path / "one.png", 56, 56)
    ours, theirs = _ask_both(drive, demo / "full", [("What is this?", picture)], tmp_path / "adapter")
    assert _compare(ours, theirs, loaded.processor.vocabulary["<unk>"]) < 1e-3
    plain = ask(load_model(demo / "full", device="cpu"), "What is this?", picture, max_new_tokens=8)
    assert distance(ours[0].logits, plain.logits) > 0.1  # the adapter says something
