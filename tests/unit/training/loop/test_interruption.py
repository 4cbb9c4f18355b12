from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from minicpmv.training.loop.interruption import SIGNALS, Interrupted, Interruption, ShelteringContext, WorkerStart
from tests.run.prepared import prepared_python


@pytest.fixture(autouse=True)
def _hangup_as_in_a_terminal() -> Iterator[None]:
    """Where the tests run under nohup, they would inherit that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_hangup_stays_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruption() as interruption:
        send(signal.SIGHUP)
        assert interruption.requested is None


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_a_run_at_once_while_nothing_would_be_lost(number: int) -> None:
    with Interruption(), pytest.raises(Interrupted, match="nothing was trained yet") as stopped:
        send(number)
    assert stopped.value.exit_code == 128 + number


def test_deferred_signal_is_remembered_and_promised(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption() as interruption:
        interruption.defer("saving first")
        send(signal.SIGUSR1)
        assert interruption.requested == signal.SIGUSR1
    assert capfd.readouterr().err == "\nSIGUSR1: saving first; a second signal ends the run at once\n"


def test_the_same_event_twice_is_one() -> None:
    with Interruption() as interruption:
        interruption.defer("")
        send(signal.SIGINT)
        send(signal.SIGINT)  # from the terminal and from the launcher
        assert interruption.requested == signal.SIGINT


def test_remembered_signal_ends_the_run_as_soon_as_nothing_would_be_lost() -> None:
    with Interruption() as interruption:
        interruption.defer("")
        send(signal.SIGTERM)
        with pytest.raises(Interrupted, match="all is saved"):
            interruption.act_at_once("all is saved")


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def run_script(script: str) -> int:
    names = "import os, signal, time\nfrom minicpmv.training.loop.interruption import *\n"
    return subprocess.run([prepared_python(), "-c", names + script], check=False, stderr=subprocess.DEVNULL).returncode


def test_second_signal_ends_the_process_at_once() -> None:
    script = """
with Interruption() as interruption:
    interruption.defer("")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    assert run_script(script) == -signal.SIGTERM


def test_nohup_stays_nohup() -> None:
    script = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with Interruption():
    os.kill(os.getpid(), signal.SIGHUP)
"""
    assert run_script(script) == 0


def _receive_before_and_after_starting() -> None:
    send(signal.SIGTERM)  # from the group, before anything is set
    WorkerStart()(0)
    send(signal.SIGINT)


class _Suicidal(Dataset[int]):
    """Sends its own process what a launcher sends to all of a group."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        for number in SIGNALS if index == 0 else ():
            os.kill(os.getpid(), number)
        return index


def test_data_workers_leave_signals_to_the_run() -> None:
    options: Any = {"worker_init_fn": WorkerStart(), "multiprocessing_context": ShelteringContext()}
    assert list(DataLoader(_Suicidal(), batch_size=None, num_workers=1, **options)) == [0, 1]


def test_signal_waits_while_a_data_worker_starts() -> None:
    process = ShelteringContext().Process(target=_receive_before_and_after_starting)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_data_workers_obey_a_second_signal() -> None:
    script = """
WorkerStart()(0)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert run_script(script) == -signal.SIGTERM
