"""llama.cpp's own converter, started by ``minicpmv export`` on a small 4.6, and every tensor of its files compared.

MINICPMV_LLAMA_CPP names a checkout of llama.cpp. Its converter knows tokenizers by the ids of a fixed text, so a copy
of it is told the small one, as ``convert_hf_to_gguf_update.py`` would do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader

from minicpmv.export.gguf.export import export_gguf
from tests.tiny import FIXTURES

pytestmark = [pytest.mark.engines]

_UNKNOWN = "        res = None\n\n        # NOTE: if you get an error here"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("MINICPMV_LLAMA_CPP")
    if not given:
        pytest.skip("MINICPMV_LLAMA_CPP names no checkout of llama.cpp")
    copy = tmp_path_factory.mktemp("checkouts") / "llama.cpp"
    copy.mkdir()
    shutil.copyfile(Path(given) / "convert_hf_to_gguf.py", copy / "convert_hf_to_gguf.py")
    shutil.copytree(Path(given) / "conversion", copy / "conversion")
    (copy / "gguf-py").symlink_to((Path(given) / "gguf-py").resolve())
    source = copy / "conversion" / "base.py"
    text = source.read_text(encoding="utf-8")
    assert text.count(_UNKNOWN) == 1
    source.write_text(text.replace(_UNKNOWN, _UNKNOWN.replace("None", "'qwen35'")), encoding="utf-8")
    return copy


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_4_6_is_converted_tensor_by_tensor_and_answers_alike(kind: str, checkout: Path, tmp_path: Path) -> None:
    done = export_gguf(str(FIXTURES / "v4_6"), tmp_path, kind=kind, llama_cpp=str(checkout))
    assert done.agreement is not None
    assert done.agreement.difference < (1e-6 if kind == "f32" else 0.2)
    assert len(GGUFReader(done.model).tensors) == 55
    assert len(GGUFReader(done.vision).tensors) == 75
    fields = GGUFReader(done.model).fields
    assert fields["general.architecture"].contents() == "qwen35"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen35"
    assert fields["qwen35.block_count"].contents() == 4
    assert fields["tokenizer.chat_template"].contents().startswith("{%- set given = namespace")
