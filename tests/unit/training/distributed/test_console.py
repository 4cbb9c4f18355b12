"""Who says what stops a run."""

from __future__ import annotations

import pytest

from minicpmv.training.distributed import console


@pytest.mark.parametrize(
    ("rank", "everywhere", "told", "waits"),
    [
        ("0", False, "error: it broke\n", False),
        ("1", False, "", True),
        ("1", True, "error in process 1: it broke\n", False),
    ],
)
def test_a_silent_process_lets_the_first_one_speak_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    everywhere: bool,
    told: str,
    waits: bool,
) -> None:
    """A launcher would end the first process before it has said anything."""
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(console.time, "sleep", waited.append)
    console.complain("it broke", everywhere=everywhere)
    assert capsys.readouterr().err == told
    assert bool(waited) is waits
