"""Work that one process does for all may take longer than processes wait for each other in a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.run import engines
from tests.run.forked import run_command
from tests.run.training import flags, make_data, read_run

_WAIT = 6
"""Seconds that processes wait in a step. The work takes two more."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "what"),
    [
        ("ddp", "check,write"),
        pytest.param("zero2", "write", marks=pytest.mark.slow),
        pytest.param("fsdp2", "write", marks=pytest.mark.slow),  # the optimizer's shards are gathered after it
    ],
)
def test_a_run_outlasts_it(engine: str, what: str, tmp_path: Path) -> None:
    data, output = make_data(tmp_path, num_records=4), tmp_path / "output"
    extra = ["--ddp_timeout", str(_WAIT), "--data_cache", str(tmp_path / "cache"), "--save_steps", "2"]
    arguments = flags(data, output, *extra, *engines.switch(engine), steps=2)
    done = run_command([str(_WAIT + 2), what, *arguments], module="tests.run.slow_leader", processes=2)
    assert done.returncode == 0, done.stderr
    assert read_run(output)["status"] == "finished"
    assert json.loads((output / "checkpoint-2" / "checkpoint.json").read_text(encoding="utf-8"))["world_size"] == 2
