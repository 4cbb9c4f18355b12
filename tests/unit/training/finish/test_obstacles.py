"""What lies in the way of a run's files is named before the run: what it saves at its end, too."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.models.checkpoints.companions import list_companions
from minicpmv.terminal.streams import explain_os_error
from minicpmv.training.finish.obstacles import OF_EVERY_RUN, refuse_obstacles
from tests.tiny import FIXTURES

BASE = FIXTURES / "v2_6"


@pytest.mark.parametrize(
    ("name", "use_lora"),
    [
        ("run.json", True),
        ("log.jsonl", False),
        (".log.jsonl.tmp", True),
        ("verification.json", True),
        ("verification/reference.safetensors", True),
        ("report.html", True),
        ("adapter_model.safetensors", True),
        ("base_model.json", True),
        ("vpm_resampler_embedtokens.pt", True),
        ("config.json", False),
        ("tokenizer.json", False),
        ("model.safetensors", False),
        ("model-00001-of-00004.safetensors", False),
    ],
)
def test_folder_under_the_name_of_a_file_is_named(name: str, use_lora: bool, tmp_path: Path) -> None:
    refuse_obstacles(tmp_path / "none", BASE, use_lora=use_lora)
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UsageError) as raised:
        refuse_obstacles(tmp_path, BASE, use_lora=use_lora)
    found = f"found a folder {str(tmp_path / name)!r}, expected a free name for the file that a run writes there"
    assert f"--output_dir {str(tmp_path)!r}: {found}\n  fix: " in str(raised.value)


@pytest.mark.parametrize("name", [".saving", "checkpoint-4", "verification"])
def test_file_under_the_name_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=rf"found a file '{tmp_path / name}', expected a free name for the folder"):
        refuse_obstacles(tmp_path, BASE, use_lora=True)


@pytest.mark.parametrize(
    ("name", "use_lora"),
    [
        (".lock", True),
        (".saving", True),
        ("log.jsonl", True),
        (".run.json.tmp", True),
        ("samples.jsonl", True),
        ("skipped.jsonl", True),
        ("before.jsonl", True),
        ("after.jsonl", True),
        ("verification", True),
        ("adapter_config.json", True),
        ("tokenizer.json", False),
        ("model-00001-of-00004.safetensors", False),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_link_is_named_wherever_it_leads(name: str, use_lora: bool, is_there: bool, tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign").mkdir()
    (output := tmp_path / "output").mkdir()
    (output / name).symlink_to(foreign if is_there else foreign / "none")
    with pytest.raises(
        UsageError, match=rf"found a link '{output / name}', expected a free name for the file or folder"
    ):
        refuse_obstacles(output, BASE, use_lora=use_lora)


def test_what_a_run_leaves_and_what_is_the_user_s_is_in_nobody_s_way(tmp_path: Path) -> None:
    for folder in ("checkpoint-4", ".saving", "verification", "runs", "model.safetensors", "notes"):
        (tmp_path / folder).mkdir()
    for file in ("run.json", "adapter_model.safetensors", "checkpoint-best", "notes.txt"):
        (tmp_path / file).write_text("{}", encoding="utf-8")
    refuse_obstacles(tmp_path, BASE, use_lora=True)


def test_refused_replacement_names_what_was_to_be_replaced() -> None:
    error = OSError(errno.EISDIR, "Is a directory", "x/.log.jsonl.tmp", None, "x/log.jsonl")
    told = "'x/log.jsonl': found a folder, expected that it can be read or written\n  fix: rename or remove it, or name"
    assert (explain_os_error(error) or "").startswith(told)


def test_no_record_of_a_run_is_copied_from_a_base_that_was_trained_here(tmp_path: Path) -> None:
    """It would replace the new run's own: its log, or the answers that its report shows."""
    shutil.copytree(BASE, tmp_path / "base")
    for name in OF_EVERY_RUN:
        path = tmp_path / "base" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the first run")
    assert list(list_companions(tmp_path / "base")) == list(list_companions(BASE))
