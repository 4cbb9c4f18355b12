from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.files.atomic_files import STAGING
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import MANIFEST, find_fault, seal
from minicpmv.training.checkpoints.restoring import find_own_checkpoint
from minicpmv.training.checkpoints.resume import Setting, choose_resume_point
from minicpmv.training.checkpoints.staging import publish, remove_stale, rotate
from minicpmv.training.loop import checkpointing
from minicpmv.training.loop.checkpointing import CheckpointingTrainer

_FINGERPRINT = {
    "base_model": {
        "path": "/model",
        "model": "MiniCPM-V-2.6",
        "weights": "a" * 64,
        "shapes": "b" * 64,
        "function": "c" * 64,
    },
    "record_lengths": None,
}


def write(output: Path, step: int, *, world_size: int = 1, files: tuple[str, ...] = ("rng_state.pth", "w")) -> Path:
    staged = output / STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name in files:
        (staged / name).write_bytes(b"x" * 10)
        if name.startswith("rng_state"):
            torch.save({}, staged / name)
    seal(staged, step=step, world_size=world_size, engine="zero2", fingerprint=_FINGERPRINT)
    final = output / f"checkpoint-{step}"
    publish(staged, final)
    return final


def names(output: Path) -> list[str]:
    return [path.name for path in list_checkpoints(output)]


def choose(output: Path, flag: str | None = "true", *, overwrite: bool = False, engine: str = "zero2") -> str | None:
    return choose_resume_point(
        flag, output_dir=str(output), setting=Setting(1, engine, _FINGERPRINT), overwrite=overwrite
    ).path


def test_published_checkpoint_is_whole(tmp_path: Path) -> None:
    assert find_fault(write(tmp_path, 5)) is None
    assert names(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda path: (path / "w").unlink(), "w is missing"),
        (lambda path: (path / "w").write_bytes(b"x"), "w has 1 bytes instead of 10"),
        (lambda path: (path / MANIFEST).unlink(), f"{MANIFEST} is missing or incomplete"),
        (lambda path: (path / MANIFEST).write_text("{"), f"{MANIFEST} is missing or incomplete"),
        (lambda path: (path / MANIFEST).write_text("[]"), f"{MANIFEST} is missing or incomplete"),
    ],
)
def test_harm_is_named(harm, fault: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 5)
    harm(checkpoint)
    assert find_fault(checkpoint) == fault


@pytest.mark.parametrize("name", ["x.pt", "latest", "trainer_state.json", MANIFEST, "deep/w"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_entry_that_is_no_file_is_named_and_not_opened(name: str, kind: str, tmp_path: Path) -> None:
    """A pipe would wait for ever, and a link leads to whatever its maker likes."""
    checkpoint = write(tmp_path, 5)
    path = checkpoint / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")
    told = "a link" if kind == "link" else "neither a file nor a folder"
    assert find_fault(checkpoint, check_content=True) == f"{name} is {told}, which a run does not write"


@pytest.mark.parametrize("name", ["/dev/zero", "/etc/passwd", "../w", "deep/../w"])
@pytest.mark.parametrize("lists", [("files", "sha256"), ("sha256",), ("files",)])
def test_list_names_nothing_outside(name: str, lists: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever alters a list can seal it again, so its own digest does not tell."""
    checkpoint = write(tmp_path, 5)
    (tmp_path / "w").write_text("outside")
    _change_list(
        checkpoint, lambda content: [content[key].update({name: {"files": 7, "sha256": "0"}[key]}) for key in lists]
    )
    found = find_fault(checkpoint, check_content=True)
    assert found in (f"{name} is missing", f"{MANIFEST} is missing or incomplete")


@pytest.mark.parametrize(
    "change", [{"step": "5"}, {"fingerprint": []}, {"files": []}, {"sha256": {"w": 1}}, {"more": 1}]
)
def test_list_of_other_types_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 5)
    _change_list(checkpoint, lambda content: content.update(change))
    assert find_fault(checkpoint) == f"{MANIFEST} is missing or incomplete"


def test_process_waits_for_weights_that_it_does_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers before 5.23 calls ``_save`` in the first process alone: waiting there, it waited for ever."""
    waited: list[str] = []
    monkeypatch.setattr(checkpointing, "wait_for_all", lambda: waited.append("for all"))
    monkeypatch.setattr(Trainer, "save_model", lambda *_: None)
    other: Any = object.__new__(CheckpointingTrainer)
    other.is_deepspeed_enabled = True
    other.save_model("checkpoint-5", _internal_call=True)
    assert waited == ["for all"]


def test_best_checkpoint_is_one_of_this_run(tmp_path: Path) -> None:
    """Its name comes from a file of the checkpoint that was resumed."""
    run = str(tmp_path / "run")
    own, other = write(tmp_path / "run", 5), write(tmp_path / "other", 6)
    assert find_own_checkpoint(run, own) == own
    assert find_own_checkpoint(run, Path("/moved/from/checkpoint-5")) == own
    for named in (other, Path(""), Path("/etc"), tmp_path / "run"):
        with pytest.raises(CheckpointError, match="no checkpoint of this run"):
            find_own_checkpoint(run, named)
    (own / "w").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="w has 4 bytes instead of 10"):
        find_own_checkpoint(run, own)


def _change_list(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's list and give it the digest that it then has."""
    content = json.loads((checkpoint / MANIFEST).read_text())
    del content["sha256_of_this"]
    change(content)
    content["sha256_of_this"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (checkpoint / MANIFEST).write_text(json.dumps(content))


def test_altered_byte_is_found_by_content_alone(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 5)
    (checkpoint / "w").write_bytes(b"xxxxyxxxxx")
    assert find_fault(checkpoint) is None
    assert find_fault(checkpoint, check_content=True).startswith("w was changed after writing: its sha256 is ")


def test_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 5)
    told = json.loads((checkpoint / MANIFEST).read_text())["sha256"]
    assert told["w"] == hashlib.sha256(b"x" * 10).hexdigest()


def test_changed_letter_anywhere_in_the_list_is_found(tmp_path: Path) -> None:
    write(tmp_path, 4)
    checkpoint = write(tmp_path, 5)
    whole = (checkpoint / MANIFEST).read_bytes()
    for place in (place for place in range(len(whole)) if whole[place : place + 1].isalnum()):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        (checkpoint / MANIFEST).write_bytes(spoilt)
        assert find_fault(checkpoint) == f"{MANIFEST} is missing or incomplete", spoilt
    assert choose(tmp_path) == str(tmp_path / "checkpoint-4"), "it is passed over, not the end of the run"


def test_checkpoints_are_ordered_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]


def test_same_step_again_replaces_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, 5, files=("rng_state.pth", "old"))
    checkpoint = write(tmp_path, 5, files=("rng_state.pth", "new"))
    assert sorted(path.name for path in checkpoint.iterdir()) == [MANIFEST, "new", "rng_state.pth"]


def test_stale_writing_is_removed_and_named(tmp_path: Path) -> None:
    (tmp_path / STAGING / "checkpoint-7").mkdir(parents=True)
    assert remove_stale(tmp_path) == ["checkpoint-7"]
    assert remove_stale(tmp_path) == []
    assert not (tmp_path / STAGING).exists()


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    written = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    assert rotate(tmp_path, limit=2, keep=(str(written[3]), str(written[0]))) == ["checkpoint-2", "checkpoint-3"]
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]


def test_rotation_never_deletes_the_only_whole_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    latest = write(tmp_path, 2)
    (latest / "w").unlink()
    assert rotate(tmp_path, limit=1, keep=(str(latest),)) == []
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("limit", [None, 0])
def test_no_limit_deletes_nothing(limit: int | None, tmp_path: Path) -> None:
    latest = [write(tmp_path, step) for step in (1, 2, 3)][-1]
    assert rotate(tmp_path, limit=limit, keep=(str(latest),)) == []


def test_resume_takes_the_newest_whole_one(tmp_path: Path) -> None:
    write(tmp_path, 9)
    torn = write(tmp_path, 10)
    (torn / "w").unlink()
    point = choose_resume_point(
        "true", output_dir=str(tmp_path), setting=Setting(1, "zero2", _FINGERPRINT), overwrite=False
    )
    assert point.path == str(tmp_path / "checkpoint-9")
    assert point.notices[0] == f"{torn} is incomplete or damaged (w is missing); skipped"


def test_altered_checkpoint_is_passed_over_and_its_file_named(tmp_path: Path) -> None:
    write(tmp_path, 9)
    (write(tmp_path, 10) / "w").write_bytes(b"y" * 10)
    point = choose_resume_point(
        "true", output_dir=str(tmp_path), setting=Setting(1, "zero2", _FINGERPRINT), overwrite=False
    )
    assert point.path == str(tmp_path / "checkpoint-9")
    assert "checkpoint-10 is incomplete or damaged (w was changed after writing" in point.notices[0]


def test_resume_without_any_checkpoint_starts_anew_and_says_so(tmp_path: Path) -> None:
    point = choose_resume_point(
        "true", output_dir=str(tmp_path / "new"), setting=Setting(1, "", _FINGERPRINT), overwrite=False
    )
    assert point.path is None
    assert "starting from the beginning" in point.notices[0]


def test_new_run_refuses_checkpoints_of_an_old_one(tmp_path: Path) -> None:
    write(tmp_path, 3)
    for flag in (None, "false"):
        with pytest.raises(UsageError, match="found checkpoint-3 of an earlier run"):
            choose(tmp_path, flag)
    assert choose(tmp_path, None, overwrite=True) is None


def test_named_checkpoint_must_exist_and_be_whole(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 3)
    assert choose(tmp_path, str(checkpoint)) == str(checkpoint)
    (checkpoint / "w").unlink()
    with pytest.raises(CheckpointError, match="w is missing"):
        choose(tmp_path, str(checkpoint))
    with pytest.raises(UsageError, match="found no directory"):
        choose(tmp_path, str(tmp_path / "checkpoint-4"))


def test_another_number_of_processes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, 3, world_size=2)
    with pytest.raises(CheckpointError, match="found it written by 2 processes, expected 1") as refused:
        choose(tmp_path)
    assert "fix: start with 2 processes" in str(refused.value)


def test_another_engine_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"found it written with zero2, expected zero3[\s\S]*fix: use zero2"):
        choose(tmp_path, engine="zero3")


def test_weights_alone_cannot_be_resumed(tmp_path: Path) -> None:
    write(tmp_path, 3, files=("model.safetensors",))
    with pytest.raises(CheckpointError, match="found weights only"):
        choose(tmp_path)
