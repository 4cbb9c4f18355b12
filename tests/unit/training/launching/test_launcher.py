"""What the launcher says where no process trains: it is told to stop, or cannot start any."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.run.prepared import prepared_python

_SCRIPT = """
import os, signal, subprocess, time
from minicpmv.training.launching import launcher

def run(arguments):
    {processes}
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

launcher._run = run
launcher.launch(["--nproc_per_node", "1", "program"])
"""


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        ("pass", "stopped by SIGTERM before the training began\n"),
        ("subprocess.run(['sleep', '1'])", "stopped by SIGTERM after the training processes had ended\n"),
    ],
    ids=["before", "after"],
)
def test_a_signal_while_no_process_trains_is_said_to_come_before_or_after(processes: str, said: str) -> None:
    done = subprocess.run(
        [prepared_python(), "-c", _SCRIPT.format(processes=processes)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nproc_per_node", "0"], "error: GPUS_PER_NODE, --num_processes: found '0', expected a whole number "),
        (["--master_port", "{taken}"], "error: machines: found that they cannot meet ("),
    ],
    ids=["no processes", "a port that is taken"],
)
def test_a_launch_that_cannot_be_ends_with_one_message(arguments: list[str], said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [word.format(taken=taken.getsockname()[1]) for word in arguments]
        done = subprocess.run(
            [prepared_python(), "-m", "minicpmv.training.launching.launcher", *words, "-m", "--", "this"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr[done.stderr.index("error: ") :].startswith(said)
