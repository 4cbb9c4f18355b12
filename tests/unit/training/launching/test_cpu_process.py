"""Settings of a process that trains on a CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minicpmv.machine.system import shown_devices

_COUNT_FAULTS = """
import resource, sys
from minicpmv.training.launching.cpu_process import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("this C library keeps nothing")
def touch():
    bytearray(64 * 2**20)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_memory_that_was_freed_is_not_fetched_from_the_system_again() -> None:
    assert _faults("keep") < 100 < _faults("leave")


@pytest.mark.long
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], marks=pytest.mark.skipif(bool(shown_devices()), reason="a GPU is there to train on")),
        ["--use_cpu", "true"],
    ],
)
def test_a_training_process_does_not_spin(flags: list[str]) -> None:
    code = f"import os; from minicpmv.training.__main__ import main; main(['--no_such_flag', *{flags}])"
    code += "; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "PASSIVE"
