"""llama.cpp's own converter, started by ``minicpmv export`` on a small 4.6, and every tensor of its files compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader

from minicpmv.export.gguf.export import export_gguf
from tests.tiny import FIXTURES

pytestmark = [pytest.mark.engines]


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_4_6_is_converted_tensor_by_tensor_and_answers_alike(kind: str, converter: Path, tmp_path: Path) -> None:
    done = export_gguf(str(FIXTURES / "v4_6"), tmp_path, kind=kind, llama_cpp=str(converter))
    assert done.agreement is not None
    assert done.agreement.difference < (1e-6 if kind == "f32" else 0.2)
    assert len(GGUFReader(done.model).tensors) == 55
    assert len(GGUFReader(done.vision).tensors) == 75
    fields = GGUFReader(done.model).fields
    assert fields["general.architecture"].contents() == "qwen35"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen35"
    assert fields["qwen35.block_count"].contents() == 4
    assert fields["tokenizer.chat_template"].contents().startswith("{%- set given = namespace")
