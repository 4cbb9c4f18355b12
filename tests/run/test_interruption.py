"""Signals to a running training: it stops at the end of a step, saved, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.monitoring.progress import RunProgress
from minicpmv.training.run import main
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.run.training import environment, flags, losses, make_data, read_run, run_here, same_bytes

_ADAPTER = "adapter_model.safetensors"
_STEPS = 6
_COMMON = "--use_lora --lora_r 4 --lora_dropout 0.3 --train_sampling_strategy random --packing false --save_steps 2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def arguments(data: str, output: Path, *extra: str) -> list[str]:
    return flags(data, output, *_COMMON.split(), *extra, steps=_STEPS)


@contextmanager
def signalled(hook: str, is_time: Callable[[Any], bool], number: int = signal.SIGTERM) -> Iterator[None]:
    """Send a signal, to data workers as well, when a hook of the trainer's callbacks is called at some state."""
    original = getattr(RunProgress, hook)

    def interrupted(self: RunProgress, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        original(self, args, state, *rest, **more)
        if is_time(state):
            workers = [child for child in psutil.Process().children() if child.name() == "pt_data_worker"]
            pids = [str(process.pid) for process in (*workers, psutil.Process())]
            # Not from here: data workers obey their parent in any case.
            subprocess.run(["sh", "-c", f"kill -{int(number)} {' '.join(pids)}"], check=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, hook, interrupted)
        yield


def after(step: int) -> Callable[[Any], bool]:
    return lambda state: state.global_step == step


@pytest.fixture(scope="module")
def uninterrupted(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    run_here(arguments(data, output, "--eval_data_path", data, "--eval_strategy", "steps", "--eval_steps", "2"))
    return output


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "extra"),
    [
        (signal.SIGTERM, ["--dataloader_num_workers", "1"]),
        (signal.SIGINT, ["--save_strategy", "no"]),
        pytest.param(signal.SIGUSR1, ["--save_only_model", "true"], marks=pytest.mark.slow),
    ],
)
def test_stopped_run_goes_on_identically_with_other_data_workers(
    number: int,
    extra: list[str],
    data: str,
    tmp_path: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with signalled("on_step_begin", after(2), number):
        assert main(arguments(data, tmp_path, *extra)) == 128 + number
    told = capsys.readouterr().out
    assert f"stopped by {signal.Signals(number).name} after step 3 of 6, saved in {tmp_path}/checkpoint-3\n" in told
    assert "resume: the same command with --resume_from_checkpoint true" in told
    assert read_run(tmp_path)["status"] == "stopped"
    assert main(arguments(data, tmp_path, "--resume_from_checkpoint", "true", "--dataloader_num_workers", "2")) == 0
    assert same_bytes(tmp_path / _ADAPTER, uninterrupted / _ADAPTER)


def test_signal_before_the_first_step_leaves_no_checkpoint(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with signalled("on_train_begin", after(0)):
        assert main(arguments(data, tmp_path)) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: nothing was trained yet" in capsys.readouterr().out
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    ("hook", "step"), [pytest.param("on_step_begin", 3, marks=pytest.mark.slow), ("on_prediction_step", 4)]
)
def test_evaluation_that_a_signal_prevented_is_made_up_for(
    hook: str, step: int, data: str, tmp_path: Path, uninterrupted: Path
) -> None:
    """The signal comes in the step behind which an evaluation is due, or while it runs."""
    extra = ["--eval_data_path", data, "--eval_strategy", "steps", "--eval_steps", "2"]
    with signalled(hook, after(step)):
        assert main(arguments(data, tmp_path, *extra)) == 128 + signal.SIGTERM
    assert list_checkpoints(tmp_path)[-1].name == "checkpoint-4"
    assert main(arguments(data, tmp_path, *extra, "--resume_from_checkpoint", "true")) == 0
    measured = [
        [(entry["step"], entry["eval_loss"]) for entry in read_run(output)["log"] if "eval_loss" in entry]
        for output in (tmp_path, uninterrupted)
    ]
    assert measured[0] == measured[1]
    assert same_bytes(tmp_path / _ADAPTER, uninterrupted / _ADAPTER)


def test_trained_weights_are_saved_first_if_no_checkpoint_has_them(
    data: str, tmp_path: Path, uninterrupted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with signalled("on_train_end", after(_STEPS)):
        assert main(arguments(data, tmp_path, "--save_strategy", "no")) == 0
    assert same_bytes(tmp_path / _ADAPTER, uninterrupted / _ADAPTER)


def test_run_that_was_stopped_after_its_last_step_trains_no_further(
    data: str, tmp_path: Path, uninterrupted: Path
) -> None:
    """Steps 6 of 8 in an epoch: Trainer alone would take a seventh, and one more with each start."""
    with signalled("on_train_end", after(_STEPS)):
        assert main(arguments(data, tmp_path)) == 128 + signal.SIGTERM
    assert main(arguments(data, tmp_path, "--resume_from_checkpoint", "true")) == 0
    assert same_bytes(tmp_path / _ADAPTER, uninterrupted / _ADAPTER)
    assert [path.name for path in list_checkpoints(tmp_path)][-1] == f"checkpoint-{_STEPS}"
    assert read_run(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(
            "minicpmv.training.launching.launcher --standalone --nproc_per_node 2 -m -- minicpmv.training",
            id="launcher",
            marks=pytest.mark.slow,
        ),
        pytest.param("minicpmv train --num_processes 2", id="train"),  # which starts that launcher
    ],
)
def test_signal_is_handed_on_and_all_processes_stop_at_the_same_step(start: str, data: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    engine = (
        [] if "launcher" in start else ["--deepspeed", "zero2"]
    )  # which takes the real interpreter seconds to import
    words = flags(data, output, "--packing", "true", *engine, "--dataloader_num_workers", "1", steps=999)
    log = tmp_path / "log"
    python = sys.executable if "launcher" in start else prepared_python()
    command = [python, "-m", *start.split(), *words]
    with log.open("w") as file, started(command, env=environment(), stdout=file, stderr=file) as process:
        wait_for("step 2/999", log, process)
        trainings = psutil.Process(process.pid).children()
        assert len(trainings) == (2 if "launcher" in start else 0), "a prepared process is the child of another"
        process.terminate()
        for training in trainings:  # as Slurm does: to data workers as well
            os.killpg(training.pid, signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()
    steps = len(losses(read_run(output)))
    assert f"stopped by SIGTERM after step {steps} of 999, saved in {output}/checkpoint-{steps}" in log.read_text()
    assert "Traceback" not in log.read_text()
    files = {path.name for path in (output / f"checkpoint-{steps}").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files


@pytest.mark.long
def test_process_that_waits_for_a_missing_one_ends_at_a_signal(data: str, tmp_path: Path) -> None:
    """It waits inside torch, where no handler of Python's would run for half an hour."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    variables = environment() | alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "20917"}
    words = [prepared_python(), "-m", "minicpmv.training", *arguments(data, tmp_path)]
    with started(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        listening = time.monotonic() + 60
        while not any(each.laddr and each.laddr.port == 20917 for each in psutil.net_connections("tcp")):
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < listening
            time.sleep(0.1)
        time.sleep(1)  # from listening to waiting
        run.terminate()
        told, _ = run.communicate(timeout=40)
    assert run.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: nothing was trained yet" in told
