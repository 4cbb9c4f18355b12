"""``minicpmv train`` starts its processes itself: one for each GPU, or as many as it is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.run.forked import minicpmv, run_command
from tests.run.prepared import prepared_python
from tests.run.training import environment, flags, losses, make_data, read_run

_START = ["--use_lora", "--lora_r", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def test_two_gpus_are_two_processes_as_any_launcher_starts_them(data: str, tmp_path: Path) -> None:
    done = run_command(flags(data, tmp_path / "own", *_START), module="tests.run.two_gpus")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("notice: starting 2 processes, one per GPU; --num_processes 1") == 1
    other = run_command(flags(data, tmp_path / "other", *_START), processes=2)
    assert other.returncode == 0, other.stderr
    own = read_run(tmp_path / "own")
    assert own["processes"] == 2
    assert losses(own) == losses(read_run(tmp_path / "other"))


def test_one_process_may_be_asked_for(data: str, tmp_path: Path) -> None:
    arguments = flags(data, tmp_path / "output", *_START, "--num_processes", "1", steps=1)
    done = run_command(arguments, module="tests.run.two_gpus")
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "output")["processes"] == 1


def test_fault_is_said_once_and_ends_with_its_code(tmp_path: Path) -> None:
    arguments = flags(str(tmp_path / "gone.json"), tmp_path / "output", "--num_processes", "2")
    done = minicpmv("train", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("gone.json: [D101] found no such file") == 1
    assert "Traceback" not in done.stderr
    assert "torch" not in done.stderr, "the launcher says nothing of its own"


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--num_processes", "2", "--help"], 0, "Processes on this machine, each on a GPU of its own."),
        (["--num_processes", "2", "--no_such_flag"], 2, "--no_such_flag: no such flag"),
        (["--num_processes", "0"], 2, "--num_processes: found 0, expected at least 1"),
    ],
)
def test_what_is_wrong_with_flags_is_said_by_the_command_itself(
    extra: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = minicpmv("train", *flags("data.json", tmp_path, *extra))
    assert done.returncode == code
    told = " ".join((done.stdout + done.stderr).split())
    assert told.count(said) == 1
    assert "Traceback" not in told


@pytest.mark.parametrize(("variable", "value"), [("WORLD_SIZE", "2"), ("OMP_NUM_THREADS", "many")])
def test_half_a_launcher_in_the_environment_is_named(variable: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [prepared_python(), "-m", "minicpmv", "train", *flags("data.json", tmp_path)],
        env=environment() | {variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: environment: found {variable}=" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_number_than_the_launcher_s_is_refused(data: str, tmp_path: Path) -> None:
    done = run_command(flags(data, tmp_path / "output", "--num_processes", "3"), processes=2)
    assert done.returncode == 2
    assert "--num_processes: found 3, but a launcher has started 2 processes" in done.stderr
