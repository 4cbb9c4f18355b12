"""What vLLM is handed of a picture; that vLLM takes it is for tests/engines to show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minicpmv.errors import UsageError
from minicpmv.export.vllm_plugin import ReleasedImageProcessor, refusing_config
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES, picture


@pytest.mark.parametrize("fixture", ["v2_5", "v2_6", "v4_5"])
def test_text_of_a_picture_is_that_of_our_prompts(fixture: str) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / fixture)
    theirs = ReleasedImageProcessor.from_pretrained(FIXTURES / fixture)
    images = [picture(56, 56), picture(150, 80)]
    content = [{"type": "image", "image": image} for image in images]
    ours = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    written = [theirs.get_slice_image_placeholder(image.size, image_idx=index) for index, image in enumerate(images)]
    assert "\n".join(written) in ours
    assert theirs.get_sliced_grid(images[0].size) is None
    assert theirs.get_sliced_grid(images[1].size) is not None


def test_frames_are_not_numbered() -> None:
    theirs = ReleasedImageProcessor.from_pretrained(FIXTURES / "v4_5")
    assert theirs.get_slice_image_placeholder((56, 56), use_image_id=False).startswith("<image><unk>")


@pytest.mark.parametrize("fixture", ["v2_6", "v4_5"])
def test_strips_are_the_released_codes(fixture: str) -> None:
    """A slice's strip holds, side by side, the squares that the picture is made of."""
    theirs = ReleasedImageProcessor.from_pretrained(FIXTURES / fixture)
    tile = picture(56, 28)
    found = theirs([[tile]], max_slice_nums=1)
    (strip,), sizes = found["pixel_values"][0], found["tgt_sizes"][0]
    rows, columns = sizes[0].tolist()
    assert strip.shape == (3, 14, rows * columns * 14)
    flat = theirs.preprocess(tile, max_slice_nums=1, return_tensors="pt")["pixel_values"]
    assert strip.dtype == flat.dtype == torch.float32
    for index in range(rows * columns):
        square = strip[:, :, 14 * index : 14 * (index + 1)]
        torch.testing.assert_close(square.flatten(), flat[index])
    assert found["image_sizes"] == [[(56, 28)]]


def test_a_checkpoint_that_numbers_no_pictures_is_obeyed(tmp_path: Path) -> None:
    fields = json.loads((FIXTURES / "v2_6" / "preprocessor_config.json").read_text(encoding="utf-8"))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields | {"use_image_id": False}), encoding="utf-8")
    theirs = ReleasedImageProcessor.from_pretrained(tmp_path)
    assert theirs.get_slice_image_placeholder((56, 56), use_image_id=True).startswith("<image><unk>")


def test_a_release_that_needs_its_own_code_in_vllm_is_refused_with_the_way() -> None:
    for name in ("o-2.6", "o-4.5"):
        config = refusing_config(VERSIONS[name])
        assert config.model_type == "minicpmo"
        with pytest.raises(UsageError, match=r"VLLM_PLUGINS= vllm serve .* --trust-remote-code"):
            config.from_dict({"model_type": "minicpmo"})


@pytest.mark.parametrize(
    ("name", "told"), [("4.6", "has it since 0.22.0"), ("4.7", "is not known"), ("4.7-A3B", "is not")]
)
def test_a_release_that_vllm_reads_by_itself_is_refused_with_the_way(name: str, told: str) -> None:
    version = VERSIONS[name]
    config = refusing_config(version)
    with pytest.raises(UsageError, match=rf"`VLLM_PLUGINS= vllm serve \.\.\.`; .*{told}"):
        config.from_dict({"model_type": version.network.model_type})


@pytest.mark.long
def test_the_plugin_puts_the_refusal_in_the_place_of_the_config(tmp_path: Path) -> None:
    """In a process of its own, with a stub for vLLM: registering is for good."""
    (tmp_path / "config.json").write_text('{"model_type": "minicpmo", "version": "4.5"}', encoding="utf-8")
    script = f"""
import sys, types
vllm = types.SimpleNamespace(MiniCPMVProcessingInfo=type("Info", (), {{}}))
for name in ("vllm", "vllm.model_executor", "vllm.model_executor.models"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["vllm.model_executor.models"].minicpmv = vllm
from transformers import AutoConfig
from minicpmv.export.vllm_plugin import register
register()
try:
    AutoConfig.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
except Exception as error:
    print(type(error).__name__, vllm.MiniCPMVProcessingInfo._image_processor_cls.__name__)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-2:] == ["UsageError", "ReleasedImageProcessor"]
