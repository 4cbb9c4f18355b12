"""Whatever a command writes can be read by whoever may read the user's other new files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicpmv.cli.main import main
from minicpmv.files.atomic_files import give_ordinary_permissions
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.exportable import write_exportable
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES

_TRAINING = "--use_lora true --lora_r 4 --save_steps 1 --save_total_limit 2 --verify_saved true --report true"


def _others(folder: Path, umask: int) -> dict[str, str]:
    """Name every file and folder that has other permissions than a new one."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    return {
        str(path.relative_to(folder)): oct(mode)
        for path, mode in found.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }


@pytest.fixture
def umask() -> Iterator[int]:
    """Have new files readable and writable by the group, which no program writes of its own accord."""
    before = os.umask(0o002)
    yield 0o002
    os.umask(before)


@pytest.mark.long
@pytest.mark.usefixtures("prepared_interpreter")
def test_a_lora_run_and_what_comes_of_it(tmp_path: Path, umask: int) -> None:
    model = write_exportable(tmp_path / "model", "v2_6")
    (tmp_path / "data").mkdir()
    data, out, run = make_data(tmp_path / "data"), tmp_path / "out", tmp_path / "out" / "run"
    out.mkdir()
    training = flags(data, run, *_TRAINING.split(), "--eval_data_path", data, "--eval_samples", "1", steps=2)
    training[training.index("--model_name_or_path") + 1] = str(model)
    training[training.index("--data_cache") + 1] = str(out / "cache")
    training[training.index("--report_to") + 1] = "tensorboard"
    assert main(["train", *training]) == 0
    assert main(["merge", str(run), str(out / "merged")]) == 0
    assert main(["export", str(run), "--output", str(out / "gguf")]) == 0
    assert main(["convert", data, "--output", str(out / "converted.jsonl"), "--image-dir", str(out / "pictures")]) == 0
    few = out / "few.json"
    few.write_text(json.dumps(json.loads(Path(data).read_text(encoding="utf-8"))[:2]), encoding="utf-8")
    answering = [str(run), str(few), "--image-root", str(tmp_path / "data"), "--max-new-tokens", "2"]
    assert main(["predict", *answering, "--output", str(out / "answers.jsonl")]) == 0
    assert main(["eval", *answering, "--output", str(out / "scores.jsonl")]) == 0
    assert main(["show", data, "--model", str(model), "--output", str(out / "show.html")]) == 0
    assert main(["report", str(run), "--output", str(out / "report.html")]) == 0
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "model.safetensors", "reference.safetensors", "optimizer.pt"} <= names
    assert _others(out, umask) == {}


@pytest.mark.slow  # the same two savers as in the run above and in the next test
@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
@pytest.mark.parametrize("lora", ["true", "false"])
def test_what_a_run_saves(tmp_path: Path, umask: int, lora: str) -> None:
    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data")
    before = os.umask(umask)
    try:
        assert main(["train", *flags(data, tmp_path / "run", "--use_lora", lora, "--save_steps", "1", steps=1)]) == 0
    finally:
        os.umask(before)
    weights = "adapter_model.safetensors" if lora == "true" else "model.safetensors"
    assert {path.parent.name for path in (tmp_path / "run").rglob(weights)} == {"run", "checkpoint-1"}
    assert _others(tmp_path / "run", umask) == {}


@pytest.mark.parametrize("most", ["50GB", "200KB"], ids=["whole", "in shards"])
def test_what_python_saves(tmp_path: Path, umask: int, most: str) -> None:
    """Weights become ordinary files, and no other file of the folder is touched."""
    own = tmp_path / "own.safetensors"
    own.touch(0o600)
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6")
    model.save_pretrained(tmp_path, max_shard_size=most)
    assert _others(tmp_path, umask) == {"own.safetensors": "0o600"}
    assert len([*tmp_path.glob("model*.safetensors")]) == 1 or most == "200KB"


def test_links_and_files_of_a_folder_with_rules_of_its_own(tmp_path: Path) -> None:
    """What a link points to is not changed; an executable file becomes an ordinary one."""
    outside = tmp_path / "outside"
    outside.touch(0o600)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "deep" / "closed").touch(0o600)
    give_ordinary_permissions(folder)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    fresh = tmp_path / "fresh"
    fresh.touch()
    assert (folder / "deep" / "closed").stat().st_mode == fresh.stat().st_mode
    assert sorted(path.name for path in folder.rglob("*")) == ["closed", "deep", "link"]
