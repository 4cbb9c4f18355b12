"""llama.cpp runs what `minicpmv export` writes, and computes what this package computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.export.gguf.export import export_gguf
from minicpmv.inference.loading import LoadedModel, load_model
from tests.engines.conftest import Drive, choose_heldout
from tests.engines.ours import IMAGE_BLOCK, Asked, ask, distance
from tests.exportable import write_exportable
from tests.tiny import save_picture

pytestmark = pytest.mark.engines

_MARK = "<__media__>"


def _prompt(loaded: LoadedModel, question: str, picture: str) -> str:
    """Our prompt as llama.cpp's library wants it: a mark where it puts the picture with the tokens around it."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return IMAGE_BLOCK.sub(lambda block: (block[1] or "") + _MARK, text)


def _ask_both(
    drive: Drive,
    model: Path,
    gguf: Path,
    asks: list[tuple[str, str]],
    *,
    kind: str,
    max_new_tokens: int = 8,
    llama_quantize: Path | None = None,
    converter: Path | None = None,
) -> tuple[LoadedModel, list[Asked], list[dict[str, Any]]]:
    quantize, checkout = (tool and str(tool) for tool in (llama_quantize, converter))
    done = export_gguf(str(model), gguf, kind=kind, run=False, llama_quantize=quantize, llama_cpp=checkout)
    loaded = load_model(model, device="cpu")
    request = {
        "model": str(done.model),
        "vision": str(done.vision),
        "max_new_tokens": max_new_tokens,
        "asks": [{"prompt": _prompt(loaded, *one), "images": [one[1]]} for one in asks],
    }
    result = drive("llama_cpp", request)
    theirs = [
        {key: result[f"{key}_{index}"] for key in ("tokens", "image", "logits", "answer")} for index in range(len(asks))
    ]
    return loaded, [ask(loaded, *one, max_new_tokens=max_new_tokens) for one in asks], theirs


# What was measured is in docs/deploy/llama_cpp.md; each bound is about three times that.
@pytest.mark.parametrize(
    ("kind", "features", "logits"), [("f32", 0.002, 0.0005), ("f16", 0.005, 0.002), ("q8_0", 0.005, 0.04)]
)
def test_the_tuned_demo_answers_alike(
    drive: Drive, demo: Path, heldout: list[tuple[str, str]], tmp_path: Path, kind: str, features: float, logits: float
) -> None:
    _, ours, theirs = _ask_both(drive, demo / "full", tmp_path, heldout, kind=kind)
    for our, their in zip(ours, theirs, strict=True):
        assert their["tokens"].tolist() == our.tokens
        assert their["answer"].tolist() == our.answer
        assert distance(their["image"], our.image) < features
        assert distance(their["logits"], our.logits) < logits
    assert len({tuple(our.answer) for our in ours}) == 10  # every digit: it has learned


@pytest.mark.parametrize("fixture", ["v2_6", "v4", "v4_5"])
def test_random_models_of_other_versions_compute_alike(drive: Drive, tmp_path: Path, fixture: str) -> None:
    model = write_exportable(tmp_path / fixture, fixture)
    picture = save_picture(tmp_path / "square.png", 56, 56)
    asks = [("What is this?", picture), ("the cat on 12 mats!", picture)]
    _, ours, theirs = _ask_both(drive, model, tmp_path / "gguf", asks, kind="f32", max_new_tokens=16)
    for our, their in zip(ours, theirs, strict=True):
        assert their["tokens"].tolist() == our.tokens
        assert distance(their["image"], our.image) < 0.001
        assert distance(their["logits"], our.logits) < 0.001
        # The engine also ends an answer at tokens of Qwen's that no trained model writes and a random one does.
        assert their["answer"].tolist() == our.answer[: len(their["answer"])]
        assert len(their["answer"]) > 8


def test_slices_are_cut_and_written_alike(drive: Drive, tmp_path: Path) -> None:
    model = write_exportable(tmp_path / "v2_6", "v2_6")
    asks = [("What is this?", save_picture(tmp_path / "four.png", 112, 112))]
    _, (our,), (their,) = _ask_both(drive, model, tmp_path / "gguf", asks, kind="f32")
    assert our.tokens.count(-1) == 5 * 4  # an overview and four slices
    assert their["tokens"].tolist() == our.tokens
    assert distance(their["image"], our.image) < 0.001
    assert distance(their["logits"], our.logits) < 0.001


def test_2_5_differs_by_its_positions_and_by_nothing_else(drive: Drive, tmp_path: Path) -> None:
    """llama.cpp numbers 2.5's patches by row and column. If ours does, too, both compute alike."""
    model = write_exportable(tmp_path / "v2_5", "v2_5")
    asks = [("What is this?", save_picture(tmp_path / "four.png", 112, 112))]
    loaded, (our,), (their,) = _ask_both(drive, model, tmp_path / "gguf", asks, kind="f32")
    assert their["tokens"].tolist() == our.tokens
    assert distance(their["image"], our.image) > 0.1
    tower: Any = loaded.model.vpm
    tower.positions = "grid"
    other = ask(loaded, *asks[0], max_new_tokens=8)
    assert distance(their["image"], other.image) < 0.001
    assert distance(their["logits"], other.logits) < 0.001


# What was measured is in docs/deploy/llama_cpp.md; each bound is about three times that.
@pytest.mark.parametrize(
    ("kind", "features", "logits"), [("f32", 4e-4, 2e-4), ("f16", 0.002, 0.002), ("q8_0", 0.002, 0.03)]
)
def test_a_tuned_4_6_answers_alike(
    drive: Drive, tuned_4_6: Path, converter: Path, tmp_path: Path, kind: str, features: float, logits: float
) -> None:
    asks = choose_heldout(tuned_4_6 / "demo")
    square = len(asks)
    asks.append(("Which digit is it?", save_picture(tmp_path / "cut.png", 224, 224)))
    _, ours, theirs = _ask_both(drive, tuned_4_6 / "merged", tmp_path, asks, kind=kind, converter=converter)
    for our, their in zip(ours, theirs, strict=True):
        assert their["tokens"].tolist() == our.tokens
        assert their["answer"].tolist() == our.answer
        assert distance(their["image"], our.image) < features
        assert distance(their["logits"], our.logits) < logits
    assert ours[square].tokens.count(-1) == 5 * 4  # an overview and four slices
    assert len({tuple(our.answer) for our in ours[:square]}) == 10  # every digit: it has learned


def test_text_is_read_alike(drive: Drive, demo: Path, tmp_path: Path) -> None:
    """The demo's own vocabulary and 2.5's way of splitting, on texts that tell the ways apart."""
    texts = ["1234 cats' don't", "\t\n  two\n\n\n three   ", "größe 图像 🙂 x²", "A,b;c--d ...!?", "HELLO They'Re"]
    for model in (demo / "full", write_exportable(tmp_path / "v2_5", "v2_5")):
        done = export_gguf(str(model), tmp_path / "gguf", run=False)
        tokenizer = load_model(model, device="cpu").processor.tokenizer
        request = {
            "model": str(done.model),
            "vision": str(done.vision),
            "asks": [],
            "max_new_tokens": 0,
            "texts": texts,
        }
        result = drive("llama_cpp", request)
        for index, text in enumerate(texts):
            assert result[f"text_{index}"].tolist() == tokenizer.encode(text, add_special_tokens=False)
