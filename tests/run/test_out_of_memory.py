"""Memory that runs out is one message, with how much was asked for at once and what to change, in every command."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.cli.main import main as command
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.run import main as train
from minicpmv.wording import counted
from tests.run.forked import run_command
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES, conversation, write_data

_NUM_RECORDS = 16


@pytest.fixture(scope="module")
def long_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of which all at once need a few hundred megabytes, with the smallest of models."""
    texts = conversation("Say it.", "word " * 490)
    records = [{"id": str(number), "conversations": texts} for number in range(_NUM_RECORDS)]
    return write_data(tmp_path_factory.mktemp("data") / "long.json", records)


@pytest.mark.parametrize("processes", [None, 2])
def test_a_step_that_the_system_has_no_memory_for_is_named(
    processes: int | None, long_data: str, tmp_path: Path
) -> None:
    """Nothing is simulated: the kernel refuses the allocation."""
    of_each = _NUM_RECORDS // (processes or 1)
    arguments = flags(long_data, tmp_path / "output", "--per_device_train_batch_size", str(of_each), steps=2)
    done = run_command(["16", *arguments], module="tests.run.little_memory", processes=processes)
    assert done.returncode == 2, done.stderr
    batch = f"a batch of {counted(of_each, 'record')}, {of_each * 1987:,} tokens and 0 image slices"
    assert f"error: step 1 of 2: found too little memory for {batch}" in done.stderr
    assert "Error code 12 (Cannot allocate memory)" in done.stderr
    assert "fix: --activation_checkpointing true, or a lower --per_device_train_batch_size" in done.stderr
    assert "`minicpmv estimate` with the same flags says what a run needs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an accelerator have no room for a forward pass that answers; training and losses have labels."""
    forward = MiniCPMVForConditionalGeneration.forward

    @functools.wraps(forward)
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("labels") is None or not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(MiniCPMVForConditionalGeneration, "forward", refuse)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["predict", "MODEL", "DATA", "--output", "FILE"], "for 1 record at once, with prompts of up to "),
        (["eval", "MODEL", "DATA"], "for 1 record at once, with prompts of up to "),
        (["eval", "MODEL", "DATA", "--metrics", "loss"], "for one record of "),
        (["chat", "MODEL", "Hello?"], "for this conversation, of 1 message with 0 pictures "),
    ],
    ids=["predict", "eval", "loss", "chat"],
)
@pytest.mark.usefixtures("no_room")
def test_answers_that_do_not_fit_are_named(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(FIXTURES / "v2_6"), "DATA": make_data(tmp_path), "FILE": str(tmp_path / "answers.jsonl")}
    assert command([places.get(word, word) for word in words]) == 2
    told = capsys.readouterr().err
    assert f"found too little memory {what}" in told
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB.), expected room for it\n  fix: " in told


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("--eval_samples 1", "memory: found too little memory for 1 record at once, with prompts of up to "),
        (
            "--eval_samples 0 --eval_on_start true --per_device_eval_batch_size 3",
            "evaluation after step 0: found too little memory for a batch of 3 records, ",
        ),
    ],
    ids=["samples", "loss"],
)
@pytest.mark.usefixtures("no_room")
def test_answers_inside_a_run_that_do_not_fit_are_named(
    extra: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path, num_records=3)
    assert train(flags(data, tmp_path / "output", "--eval_data_path", data, *extra.split(), steps=1)) == 2
    assert what in capsys.readouterr().err
