"""A data-loader worker that is killed ends a run with a message, not with torch's traceback, and the run can go on."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.processes import started
from tests.run.prepared import prepared_python, served
from tests.run.training import environment, flags, make_data


def test_killed_worker_is_named(tmp_path: Path) -> None:
    data, output = make_data(tmp_path, num_records=4), tmp_path / "output"
    arguments = flags(data, output, "--dataloader_num_workers", "1", "--save_steps", "1", steps=100_000)
    command = [prepared_python(), "-m", "minicpmv.training", *arguments]
    with started(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 200
        while not list(output.glob("checkpoint-*")) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = [process for process in served() if process.name() == "pt_data_worker"]
        assert workers
        for worker in workers:
            worker.kill()
        _, told = run.communicate(timeout=120)
    assert run.returncode == 2, told
    assert "error: data-loader worker: found that it was killed by a signal (Killed), most likely by the kernel" in told
    assert "--dataloader_num_workers" in told
    assert "Traceback" not in told
    assert list(output.glob("checkpoint-*"))
