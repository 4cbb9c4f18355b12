"""A checkpoint that a stranger has altered and sealed again is refused by name, and nothing in it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.training.checkpoints.manifest import read_manifest, seal
from minicpmv.training.checkpoints.pickles import find_foreign_object, restrict_unpickling
from tests.run.engines import switch
from tests.run.forked import run_command
from tests.run.training import flags, make_data

_ENGINES = {
    "plain": [],
    "zero2": switch("zero2"),
    "zero1": switch("zero1"),
    "zero3": switch("zero3"),
    "zero2-offload": switch("zero2-offload"),
    "zero3-offload": switch("zero3-offload"),
    "fsdp2": switch("fsdp2"),
}
_SHOWN = ("plain", "zero2")
_NAMED = "posix.mkdir, which is neither a tensor nor a number"


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._marker),))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=2)


@pytest.mark.long
@pytest.mark.parametrize(
    "engine", [name if name in _SHOWN else pytest.param(name, marks=pytest.mark.slow) for name in _ENGINES]
)
def test_no_pickle_of_a_checkpoint_runs(engine: str, data: str, tmp_path: Path) -> None:
    processes = 2 if engine == "fsdp2" else None
    run = [*flags(data, tmp_path / "out", "--save_steps", "1", steps=1), *_ENGINES[engine]]
    trained = run_command(run, processes=processes)
    assert trained.returncode == 0, trained.stderr
    checkpoint, kept = tmp_path / "out/checkpoint-1", tmp_path / "kept"
    shutil.copytree(checkpoint, kept)
    pickles = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.suffix in {".bin", ".pt", ".pth"})
    assert len(pickles) >= 3
    universal = Path("global_step1_universal/zero/llm.lm_head.weight/fp32.pt")
    names = [*pickles, universal] if engine == "zero2" else pickles
    for name in names:
        shutil.rmtree(checkpoint)
        shutil.copytree(kept, checkpoint)
        _alter(checkpoint / name, tmp_path / "ran")
        assert _found(checkpoint) == f"{name} holds {_NAMED}"
    for name in names:
        _alter(checkpoint / name, tmp_path / "ran")
    _seal_again(checkpoint)
    resumed = run_command([*run, "--max_steps", "2", "--resume_from_checkpoint", "true"], processes=processes)
    assert resumed.returncode == 2, resumed.stderr
    assert f" holds {_NAMED}" in resumed.stderr
    assert "Traceback" not in resumed.stderr
    assert not (tmp_path / "ran").exists()


def _found(checkpoint: Path) -> str | None:
    """Look as a run does; the variables are as before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
            patch.setenv(name, "0")
        restrict_unpickling(deepspeed=True)
        return find_foreign_object(checkpoint)


def _alter(path: Path, marker: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"x": _Touch(marker)}, path)


def _seal_again(checkpoint: Path) -> None:
    """List the altered files with their digests, as whoever altered them can."""
    manifest = read_manifest(checkpoint)
    assert manifest is not None
    kept = {name: manifest[name] for name in ("step", "world_size", "engine", "fingerprint")}
    (checkpoint / "checkpoint.json").unlink()
    seal(checkpoint, **kept)
