"""vLLM's build for CPUs loads our directories through the plugin, without code of theirs, and answers as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from minicpmv.inference.loading import LoadedModel, load_model
from tests.engines.conftest import Drive, choose_heldout
from tests.engines.ours import IMAGE_BLOCK, Asked, ask, distance
from tests.exportable import write_exportable
from tests.tiny import save_picture

pytestmark = pytest.mark.engines

_LLM_ATTENTION = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


def _prompt(loaded: LoadedModel, question: str, picture: str) -> str:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    is_own = loaded.model.config.minicpmv_version.engines.vllm is not None  # vLLM's classes read transformers' files
    return IMAGE_BLOCK.sub("<|image_pad|>" if is_own else "(<image>./</image>)", text)


def _ask_both(
    drive: Drive, model: Path, asks: list[tuple[str, str]], adapter: Path | None = None, **settings: str
) -> tuple[list[Asked], list[dict[str, Any]]]:
    loaded = load_model(adapter or model, device="cpu")
    request = {
        "model": str(model),
        "adapter": None if adapter is None else str(adapter),
        "max_new_tokens": 8,
        "end_ids": loaded.end_token_ids(),
        "asks": [{"prompt": _prompt(loaded, *one), "images": [one[1]]} for one in asks],
    }
    if "VLLM_PLUGINS" in settings:
        request["dtype"] = "bfloat16"  # its linear layers on a CPU know no other
    result = drive("vllm", request, **settings)
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


# Measured: 0.1 in bfloat16, and answers alike. Were the rotary positions or a layer's state wrong, it would be above 1.
def test_a_tuned_4_6_answers_alike_without_the_plugin(drive: Drive, tuned_4_6: Path, tmp_path: Path) -> None:
    asks = choose_heldout(tuned_4_6 / "demo")
    asks.append(("Which digit is it?", save_picture(tmp_path / "cut.png", 224, 224)))
    asks.append(("Which digit is it?", save_picture(tmp_path / "wide.png", 150, 80, seed=1)))
    ours, theirs = _ask_both(drive, tuned_4_6 / "merged", asks, VLLM_PLUGINS="")
    slot = load_model(tuned_4_6 / "merged", device="cpu").processor.vocabulary["<|image_pad|>"]
    assert _compare(ours, theirs, slot) < 0.3
    assert len({tuple(our.answer) for our in ours[:20]}) == 10  # every digit: it has learned


def test_an_adapter_of_4_6_is_loaded_as_it_is(drive: Drive, tuned_4_6: Path) -> None:
    asks = choose_heldout(tuned_4_6 / "demo")[:4]
    adapter = tuned_4_6 / "adapter"
    ours, theirs = _ask_both(drive, tuned_4_6 / "full", asks, adapter, VLLM_PLUGINS="")
    adapted = load_model(adapter, device="cpu")
    assert _compare(ours, theirs, adapted.processor.vocabulary["<|image_pad|>"]) < 0.3
    plain = ask(load_model(tuned_4_6 / "full", device="cpu"), *asks[0], max_new_tokens=8)
    assert distance(ours[0].logits, plain.logits) > 0.01  # the adapter says something
