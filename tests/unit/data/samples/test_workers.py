"""Workers that deliver nothing, in torch's words and in ours."""

from __future__ import annotations

import pytest

from minicpmv.data.samples.workers import WorkerError, naming_dead_workers


@pytest.mark.parametrize(
    ("torchs", "ours"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "was killed by a signal (Killed), most likely by"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are",
            r"was killed by a signal \(Bus error\), most likely for want of room in /dev/shm",
        ),
        (
            "DataLoader worker (pid 12) exited unexpectedly with exit code 92. Details are lost due to multi",
            "had no room in /dev/shm for what it has made",
        ),
        ("DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are", "has ended, most likely for"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "has ended, most likely for want of memory"),
        ("DataLoader timed out after 900 seconds", "has delivered nothing for 900 seconds"),
    ],
)
def test_torchs_words_become_a_cause(torchs: str, ours: str) -> None:
    ours = ours.replace("signal (Killed)", r"signal \(Killed\)")
    with pytest.raises(WorkerError, match=f"found that it {ours}"), naming_dead_workers("have fewer"):
        raise RuntimeError(torchs)


def test_what_is_known_of_the_first_error_counts() -> None:
    """torch says at last that a worker has ended, and before that with which code."""
    code = RuntimeError("DataLoader worker (pid 12) exited unexpectedly with exit code 92. Details are lost")
    with pytest.raises(WorkerError, match="had no room"), naming_dead_workers("have fewer"):
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly") from code


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="CUDA"), naming_dead_workers("have fewer"):
        raise RuntimeError("CUDA error")
