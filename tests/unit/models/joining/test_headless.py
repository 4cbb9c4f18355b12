"""A model called for its hidden states: what its own head makes of them are its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.tiny import FIXTURES, picture


@pytest.mark.parametrize("folder", ["v2", "v2_6"])
def test_hidden_states_of_base_model_are_those_behind_the_logits(folder: str) -> None:
    """V-2 divides them before its head, as ``text_config.logits_scaling`` says: TRL reads that."""
    model: Any = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / folder).eval()
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / folder)
    image: Image.Image = picture(90, 60)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    batch = [[{"role": "user", "content": content}], [{"role": "user", "content": "Hi"}]]
    inputs = processor.apply_chat_template(batch)
    with torch.no_grad():
        hidden = model.base_model(**inputs).last_hidden_state
        logits = model(**inputs).logits
    scaling = getattr(model.config.text_config, "logits_scaling", 1.0)
    torch.testing.assert_close(model.get_output_embeddings()(hidden / scaling), logits, rtol=0, atol=1e-6)
    assert model.get_decoder() is model
    assert model.base_model.config is model.config


def test_loaded_model_names_the_token_of_image_places(tmp_path: Path) -> None:
    """The config that is saved stays as released; TRL reads both names of every model."""
    model: Any = AutoModelForImageTextToText.from_pretrained(FIXTURES / "v2_6")
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    assert model.config.image_token_id == processor.image_token_id == processor.tokenizer.unk_token_id
    assert isinstance(model.config.auto_map, dict)
    model.config.save_pretrained(tmp_path)
    assert "image_token_id" not in (tmp_path / "config.json").read_text()
    model.save_pretrained(tmp_path)
    assert getattr(AutoModelForImageTextToText.from_pretrained(tmp_path).config, "image_token_id", None) is None, (
        "no tokenizer's file is there"
    )
