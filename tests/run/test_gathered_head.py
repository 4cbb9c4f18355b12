"""Engines that shard weights gather the output head once for all chunks of a micro-batch's loss, and learn the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run import engines
from tests.run.forked import run_command
from tests.run.training import flags, largest_difference, losses, make_data, read_run, run_here

_KINDS = {"full": "--save_dtype float32", "LoRA": "--use_lora --lora_r 4 --lora_dropout 0 --tune_output_head true"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        pytest.param("fsdp2", "full", marks=pytest.mark.slow),
        pytest.param("fsdp2", "LoRA", marks=pytest.mark.slow),
        ("zero3", "full"),
    ],
)
def test_one_gathering_serves_all_chunks(engine: str, kind: str, tmp_path: Path) -> None:
    data, counted = make_data(tmp_path), tmp_path / "counted"
    extra = [*_KINDS[kind].split(), "--gradient_accumulation_steps", "2"]
    arguments = flags(data, tmp_path / "output", *extra, *engines.switch(engine), steps=3)
    done = run_command([counted, *arguments], module="tests.run.counted_gathers", processes=2)
    assert done.returncode == 0, done.stderr
    gathered = [int(line) for line in counted.read_text().split()]
    learns_when = 1 if engine == "zero3" else 0  # it follows the first micro-batch to see what is needed when
    assert len(gathered) == 6
    assert gathered[learns_when:] == [1] * (6 - learns_when)

    whole = [*_KINDS[kind].split(), "--per_device_train_batch_size", "4"]
    alone = run_here(flags(data, tmp_path / "alone", *whole, steps=3))
    assert losses(read_run(tmp_path / "output")) == pytest.approx(losses(alone), abs=engines.LOSS)
    name = engines.SAVED[kind]
    assert largest_difference(tmp_path / "output" / name, tmp_path / "alone" / name) < engines.WEIGHT
