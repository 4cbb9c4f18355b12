"""A loss that is no number ends a run with the records it came from, and with the last good checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.data.dataset import ConversationDataset
from minicpmv.training.checkpoints import list_checkpoints
from minicpmv.training.run import main
from tests.run import poisoned
from tests.run.forked import run_command
from tests.run.training import flags, make_data

_POISONED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("batches", "last_good", "others"),
    [
        ("--packing false --dataloader_num_workers 1", 3, []),
        ("--packing false --per_device_train_batch_size 2", 1, [2]),
        ("--packing false --gradient_accumulation_steps 2", 1, []),
        ("--packing true --model_max_length 256", 0, None),
    ],
)
def test_records_of_the_batch_are_named_and_the_last_good_checkpoint_stays(
    batches: str,
    last_good: int,
    others: list[int] | None,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POISONED", str(_POISONED))
    monkeypatch.setattr(ConversationDataset, "__getitem__", poisoned._poisoned)
    arguments = flags(data, tmp_path, *batches.split(), "--save_steps", "1", "--save_total_limit", "9")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"error: step {last_good + 1} of 4: found a loss of nan, expected a finite number" in told
    named = [line.strip().partition(" record ")[2] for line in told.splitlines() if " record " in line]
    if others is None:  # a packed row: some of the eight
        assert f"{_POISONED} (id '{_POISONED}')" in named
        assert 1 < len(named) < 8
    else:
        assert named == [f"{number} (id '{number}')" for number in sorted([*others, _POISONED])]
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n + 1}" for n in range(last_good)]


def test_all_processes_stop_together_and_one_says_why(data: str, tmp_path: Path) -> None:
    """Record 3 is in the second batch of the second of two processes; ZeRO-2 has mixed its gradient into all."""
    arguments = flags(data, tmp_path, "--packing", "false", "--deepspeed", "zero2", "--save_steps", "1")
    variables = {"POISONED": str(_POISONED)}
    done = run_command(arguments, processes=2, module="tests.run.poisoned", variables=variables)
    assert done.returncode != 0
    assert done.stderr.count("error: step 2 of 4: found a loss of nan") == 1
    assert "record 3 (id '3')" in done.stderr
    assert "record 2 (id '2')" not in done.stderr
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]
