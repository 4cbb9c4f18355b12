"""The loss on held-out data is that of all their tokens, however records are batched and dealt out."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from tests.precision import bound
from tests.run.forked import run_command
from tests.run.test_bad_records import records_of
from tests.run.training import flags, make_data, read_run, run_here
from tests.tiny import write_data

# Measured: 5e-7 on losses around 5; in bfloat16 1e-2 between batches of one and of four records.
_LOSS = bound(fp32=5e-6, bf16=3e-2)


def measured(data: str, held_out: str, output: Path, *extra: str, processes: int | None = None) -> float:
    """Train a step too small to change anything, and measure."""
    arguments = flags(data, output, "--eval_data_path", held_out, "--learning_rate", "1e-30", *extra, steps=1)
    if processes is None:
        with pytest.raises(UsageError, match="Nothing was trained: after 1 steps"):
            run_here(arguments)
    else:
        done = run_command(arguments, processes=processes)
        assert (done.returncode, done.stderr.count("Nothing was trained")) == (2, 1), done.stderr
    return read_run(output)["metrics"]["eval_loss"]


@pytest.mark.long
def test_batches_and_processes_do_not_change_the_loss(tmp_path: Path) -> None:
    data = make_data(tmp_path, num_records=5)  # answers of 1 to 10 words
    expected = measured(data, data, tmp_path / "1")
    found = measured(data, data, tmp_path / "4", "--per_device_eval_batch_size", "4")
    assert found == pytest.approx(expected, abs=_LOSS)
    found = measured(data, data, tmp_path / "two", "--per_device_eval_batch_size", "2", processes=2)
    assert found == pytest.approx(expected, abs=_LOSS)


def test_skipped_records_count_for_nothing(tmp_path: Path) -> None:
    records = records_of(tmp_path)
    data = write_data(tmp_path / "train.json", records[:2])
    held_out = write_data(tmp_path / "held_out.json", records)
    sound = write_data(tmp_path / "sound.json", [records[index] for index in (0, 1, 3, 4)])
    skipping = ["--on_bad_record", "skip", "--max_bad_share", "0.5"]
    found = measured(data, held_out, tmp_path / "all", *skipping)
    assert found == pytest.approx(measured(data, sound, tmp_path / "four"), abs=_LOSS)
