"""The shell scripts: POSIX, complete, and refusing what cannot work before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.repository import ROOT, SCRIPTS, TRAINING_SCRIPTS

_POSIX_SHELL = shutil.which("dash") or "sh"  # sh is dash on Debian and Ubuntu
_VARIABLES = ["GPUS_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"]
_VARIABLES += ["MODEL", "DATA", "EVAL_DATA", "LLM_TYPE", "MODEL_MAX_LENGTH"]


def _name(path: Path) -> str:
    return path.name


def _run(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {*_VARIABLES, "PYTHON"}}
    environment = kept | {"PYTHON": "/nowhere/python"} | variables  # nothing here may get as far as an installation
    return subprocess.run(
        [_POSIX_SHELL, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_script_is_posix_shell(script: Path) -> None:
    parsed = subprocess.run([_POSIX_SHELL, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    # What dash parses but does not do.
    bashisms = re.findall(r"(?m)\[\[ |<<<|\bfunction \w+|\bpipefail\b|\blocal \w|^\s*source ", script.read_text())
    assert bashisms == []


@pytest.mark.parametrize("script", [*SCRIPTS[:4], ROOT / ".ci/run"], ids=_name)
def test_script_is_executable(script: Path) -> None:
    assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("script", TRAINING_SCRIPTS, ids=_name)
def test_official_variables_stand_at_the_top_and_come_from_outside(script: Path) -> None:
    top = script.read_text(encoding="utf-8").partition("torchrun")[0]
    assert [name for name in _VARIABLES if f"\n{name}=${{{name}:-" not in top] == []


@pytest.mark.parametrize("script", TRAINING_SCRIPTS, ids=_name)
@pytest.mark.parametrize("given", ["MODEL", "DATA"])
def test_one_of_model_and_data_alone_is_wrong_use(script: Path, given: str) -> None:
    missing = {"MODEL": "DATA", "DATA": "MODEL"}[given]
    ended = _run(script, **{given: "somewhere"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"found {given}=somewhere without {missing}, expected both")
    assert f"fix: set {missing}" in ended.stderr


def test_file_of_settings_and_variables_together_are_wrong_use() -> None:
    ended = _run(ROOT / "finetune_lora.sh", "run.yaml", MODEL="somewhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("found MODEL, DATA or NNODES with run.yaml, expected the file alone")


def test_preferences_have_no_demo() -> None:
    ended = _run(ROOT / "finetune_dpo.sh")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("found neither MODEL nor DATA, expected both")


@pytest.mark.parametrize("script", TRAINING_SCRIPTS, ids=_name)
def test_help_is_the_comment_at_the_head(script: Path) -> None:
    ended = _run(script, "--help")
    assert ended.returncode == 0
    assert f"sh {script.name}" in ended.stdout
    assert "set -eu" not in ended.stdout


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_other_versions_makes_no_environment(flag: str) -> None:
    ended = _run(ROOT / "scripts/test_versions.sh", flag)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "sh scripts/test_versions.sh newest" in ended.stdout
    assert "set -eu" not in ended.stdout


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    """A checkout without an environment: as much of it as the scripts read before they make one."""
    locks = (ROOT / "requirements").glob("*.txt")
    for path in [*SCRIPTS, ROOT / "pyproject.toml", ROOT / "constraints.txt", *locks]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS[:3], ids=_name)
def test_missing_python_is_said_with_a_fix(script: Path, bare_checkout: Path) -> None:
    ended = _run(bare_checkout / script.name, MODEL="m", DATA="d")
    assert ended.returncode == 2
    assert ended.stderr.startswith("found no /nowhere/python, expected Python 3.10 or newer\n  fix: ")
    assert not (bare_checkout / ".venv").exists()


def test_environment_of_somebody_else_is_left_alone(bare_checkout: Path) -> None:
    theirs = bare_checkout / ".venv/pyvenv.cfg"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    ended = _run(bare_checkout / "test.sh")
    assert ended.returncode == 2
    assert "which these scripts did not make" in ended.stderr
    assert [path.name for path in theirs.parent.iterdir()] == ["pyvenv.cfg"]


def test_installing_an_extra_that_is_none_is_wrong_use(bare_checkout: Path) -> None:
    install = [_POSIX_SHELL, str(bare_checkout / "scripts/install.sh"), "serve,gpu"]
    environment = os.environ | {"PYTHON": "/nowhere/python"}
    ended = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    known = "data dev docs films metrics modelscope qlora serve trl ui"
    assert ended.stderr.startswith(f"found the extra gpu, expected one of: {known}")


def _training_flags(script: Path) -> list[str]:
    """Return the flags as the training receives them: torchrun is replaced by something that prints them."""
    text = script.read_text(encoding="utf-8")
    command = text[text.index("\ntorchrun") : text.index("\nfinish")]
    printed = re.sub(r"\ntorchrun .*?minicpmv\.training", "\nprintf '%s\\\\n'", command, flags=re.DOTALL)
    values = "MODEL=m DATA=d EVAL_DATA=e LLM_TYPE=qwen2 MODEL_MAX_LENGTH=64 OUTPUT_DIR=o BF16=false FP16=false "
    values += (
        "EPOCHS=1 BATCH_SIZE=1 ACCUMULATION=1 LEARNING_RATE=1e-4 SAVE_STEPS=9 MEASURE=4 EVAL_STEPS= VALIDATION_SPLIT= "
    )
    values += "LORA_PRESET=official TUNE_VISION=true PREFERENCE_LOSS=sigmoid BETA=0.1\n"
    ran = subprocess.run([_POSIX_SHELL, "-euc", values + printed], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "is_dry"),
    [
        ("--max_steps 3", False),
        ("--dry_run", True),
        ("--dry-run --max_steps 3", True),
        ("--max_steps 3 --dry_run true", True),
        ("--dry_run=true", True),
        ("--dry_run false", False),
        ("--dry_run=False --max_steps 3", False),
    ],
)
def test_dry_run_of_the_demo_measures_nothing(words: str, is_dry: bool) -> None:
    start = f". {ROOT}/scripts/finetune.sh; find_dry_run {words}; DEMO=yes; OUTPUT_DIR=o; HELD_OUT=h"
    end = "_measure() { exit 3; }; finish"
    ended = subprocess.run([_POSIX_SHELL, "-euc", f"{start}; {end}"], capture_output=True, text=True, check=False)
    assert ended.returncode == (0 if is_dry else 3)
    assert ended.stderr == ""


@pytest.mark.parametrize("script", TRAINING_SCRIPTS, ids=_name)
def test_flags_of_the_script_are_known_and_modern(script: Path) -> None:
    from minicpmv.training.flags.arguments import parse_arguments

    request = parse_arguments(_training_flags(script))
    assert list(request.notices) == []
    assert request.run.use_lora == ("ds" not in script.name)
    assert request.run.tune_llm == ("ds" in script.name)


def test_launcher_ends_with_the_exit_code_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(
        "import sys; print('train.json record 3: fault', file=sys.stderr); sys.exit(2)"
    )
    launcher = [sys.executable, "-m", "minicpmv.training.launching.launcher", "--standalone", "--nproc_per_node", "1"]
    ended = subprocess.run(
        [*launcher, "-m", "--", "training", "--log", "x"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "train.json record 3: fault" in ended.stderr
    assert "Traceback" not in ended.stderr


def _choose_hardware(
    folder: Path, python: str, *, demo: str = "no", flags: str = "", precision: str = ""
) -> subprocess.CompletedProcess[str]:
    """Let the scripts ask a Python that answers as some other machine would."""
    stub = folder / "python"
    stub.write_text(f"#!/bin/sh\n{python}\n")
    stub.chmod(0o755)
    variables = f"DEMO={demo} NNODES=1 GPUS_PER_NODE= MASTER_PORT= PRECISION={precision} PYTHON={stub}"
    told = 'echo "$GPUS_PER_NODE $BF16 $FP16 ${OMP_NUM_THREADS:-free}"'
    code = f". {ROOT}/scripts/finetune.sh; {variables}; choose_hardware {flags}; {told}"
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run([_POSIX_SHELL, "-euc", code], env=kept, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("answer", "demo", "chosen"),
    [
        ("8 bf16 50000", "no", "8 true false free"),
        ("8 bf16 50000", "yes", "1 true false free"),
        ("4 fp16 50000", "no", "4 false true free"),  # T4, V100
        ("1 bf16 50000", "no", "1 true false free"),  # a slice of a card
        ("0 fp32 50000", "no", "1 false false free"),
        ("0 fp32 50000", "yes", "1 false false 1"),
    ],
)
def test_processes_and_precision_are_what_the_machine_has(tmp_path: Path, answer: str, demo: str, chosen: str) -> None:
    ended = _choose_hardware(tmp_path, f"echo {answer}", demo=demo)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, chosen, "")


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ("--fp16 true", "false true"),
        ("--fp16 --max_steps 3", "false true"),
        ("--max_steps 3 --fp16=True", "false true"),
        ("--fp16 false", "true false"),
        ("--fp16_full_eval false", "true false"),
        ("--bf16 true", "true false"),
    ],
)
def test_precision_of_a_flag_wins_over_what_the_script_chooses(tmp_path: Path, flags: str, chosen: str) -> None:
    ended = _choose_hardware(tmp_path, "echo 1 bf16 50000", flags=flags)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"1 {chosen} free\n", "")


def test_float16_without_a_gpu_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    ended = _choose_hardware(tmp_path, "echo 0 fp32 50000", precision="fp16")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("found PRECISION=fp16 or --fp16 true without a GPU, expected bf16 or fp32")


def test_machine_that_cannot_be_used_ends_the_script_with_its_message(tmp_path: Path) -> None:
    """As a driver does that is too old: NVML counts 8 cards, and each of 8 processes would end with another message."""
    ended = _choose_hardware(tmp_path, "echo 'error: machine: found 8 NVIDIA GPUs' >&2; exit 2")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: machine: found 8 NVIDIA GPUs\n")


def test_look_at_the_hardware_says_what_memory_it_lacks() -> None:
    look = f"ulimit -v 300000; exec {sys.executable} -m minicpmv.training.launching.hardware"
    ended = subprocess.run([_POSIX_SHELL, "-c", look], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: machine: found too little memory for torch (")
    assert "ulimit -v unlimited" in ended.stderr


def test_flags_of_the_training_are_known_where_hardware_is_chosen(tmp_path: Path) -> None:
    ended = _choose_hardware(tmp_path, 'echo "$@" >&2; echo 0 fp32 50000', flags="--max_steps 3 --use_cpu true")
    assert ended.stderr == "-m minicpmv.training.launching.hardware --max_steps 3 --use_cpu true\n"


@pytest.mark.parametrize(("chosen", "found"), [({}, sys.executable), ({"PYTHON": "/nowhere/python"}, None)])
def test_copy_of_the_scripts_uses_the_python_that_made_it(
    tmp_path: Path, chosen: dict[str, str], found: str | None
) -> None:
    """Where the active one has no minicpmv; a Python that the user has chosen is not replaced."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/environment.sh", tmp_path / "scripts")
    (tmp_path / "scripts/python.txt").write_text(f"{sys.executable}\n")
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    environment = kept | {"PATH": f"{tmp_path}{os.pathsep}{kept['PATH']}", "PYTHONPATH": str(ROOT / "src")} | chosen
    code = f"ROOT={tmp_path}; . scripts/environment.sh; echo $PYTHON"
    words = [_POSIX_SHELL, "-euc", code]
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if found is None:
        assert ended.returncode == 2
        assert ended.stderr.startswith("found no minicpmv in /nowhere/python, expected the Python")
    else:
        assert (ended.returncode, ended.stdout) == (0, f"{found}\n")
