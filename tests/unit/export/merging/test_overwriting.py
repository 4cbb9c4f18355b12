"""``--overwrite`` takes a model's directory, and nothing that cannot be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.export.merging.overwriting import refuse_losses


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"model_type": "minicpmv"}' if name == "config.json" else "x", encoding="utf-8")
    return folder


def test_model_and_copies_of_the_base_may_go(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "config.json", "code.py", "assets/logo.png")
    names = ("config.json", "merge.json", "model-00001-of-00002.safetensors", "tokenizer_config.json", "code.py")
    refuse_losses(write(tmp_path / "out", *names, "assets/logo.png"), [base])
    (tmp_path / "empty").mkdir()
    refuse_losses(tmp_path / "empty", [base])


@pytest.mark.parametrize(
    "names", [("cat.png",), ("config.json", "train.json"), ("config.json", "more/vocab.json"), ("vocab.json",)]
)
def test_whatever_else_lies_there_is_named(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"found '{names[-1]}', which is no part of a model and would be lost"):
        refuse_losses(write(tmp_path, *names), [])


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', '{"version": "4.0"}', "[]", "my notes", "\udcff"])
def test_names_alone_make_no_model(content: str, tmp_path: Path) -> None:
    write(tmp_path, "vocab.json")
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"found 'config\.json', 'vocab\.json', which is no part of a model"):
        refuse_losses(tmp_path, [])
