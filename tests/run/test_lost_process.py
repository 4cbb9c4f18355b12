"""A process that is killed ends the run with one message and its exit code; the others leave no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.docs.repository import ROOT
from tests.run.training import environment, flags, make_data


def test_killed_process_is_named_by_the_launcher_alone(tmp_path: Path) -> None:
    data, output = make_data(tmp_path, num_records=4), tmp_path / "output"
    launcher = [sys.executable, str(ROOT / "scripts/torchrun.py"), "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "--", "minicpmv.training", *flags(data, output, "--save_steps", "1", steps=100_000)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 200
        while not list(output.glob("checkpoint-*")) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        second = [child for child in psutil.Process(run.pid).children() if child.environ().get("RANK") == "1"]
        for process in second:
            process.send_signal(signal.SIGKILL)
        _, told = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGKILL, told
    assert "training process 1 was ended by SIGKILL; that often means: out of memory" in told
    assert "Traceback" not in told
    assert list(output.glob("checkpoint-*"))
