"""A system without what POSIX has, as Windows is: everything can be imported, and light commands run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.errors import MachineError
from minicpmv.files.posix import fcntl, refuse_windows, resource, signals, user_id
from tests.run.training import flags
from tests.tiny import conversation, save_picture, write_data

# torch and the libraries are imported first: they have ways of their own on each system. What is taken away then is
# what this package could use of POSIX. Modules that are a child's own program are not imported.
_WITHOUT = """
import importlib, os, pkgutil, signal, sys
import accelerate, peft, psutil, tempfile, torch, transformers, uvicorn, gradio, multiprocessing.context, starlette
from transformers import Trainer

for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty", "readline"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "pthread_sigmask"):
    delattr(signal, name)
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fork", "geteuid", "getuid", "killpg", "pread",
             "pwrite", "sched_getaffinity", "setsid", "register_at_fork"):
    delattr(os, name)

import minicpmv
from minicpmv.cli.main import main

assert main(["check", sys.argv[1]]) == 0
assert main(["explain", "D141"]) == 0
failed = {}
for module in pkgutil.walk_packages(minicpmv.__path__, "minicpmv."):
    if module.name.endswith(("__main__", "_child")) or module.name in %r:
        continue
    try:
        importlib.import_module(module.name)
    except (ImportError, AttributeError) as error:
        failed[module.name] = repr(error)
assert failed == {}, failed
from minicpmv.training.run import main as train
sys.exit(train(sys.argv[2:]))
"""
_OF_OTHER_PACKAGES = ("minicpmv.export.vllm_plugin",)


@pytest.mark.long
def test_without_posix_every_module_is_imported_data_is_checked_and_one_process_trains(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    data = write_data(tmp_path / "train.json", [{"image": "a.png", "conversations": conversation("Why?", "So.")}])
    words = [sys.executable, "-W", "ignore", "-c", _WITHOUT % (_OF_OTHER_PACKAGES,), data]
    words += flags(data, tmp_path / "output", "--use_lora", "true", "--dataloader_num_workers", "0", steps=1)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No problem in 1 record" in done.stdout
    assert (tmp_path / "output" / "adapter_model.safetensors").is_file()


def test_a_feature_that_needs_it_names_the_way() -> None:
    with pytest.raises(MachineError, match=r"^--logits: found a system without it (.|\n)*fix: on Windows, use WSL 2"):
        refuse_windows("--logits")


def test_here_they_are_the_systems_own() -> None:
    assert fcntl.__name__ == "fcntl"
    assert resource.__name__ == "resource"
    assert [each.name for each in signals("SIGTERM", "SIGNONE", "SIGHUP")] == ["SIGTERM", "SIGHUP"]
    assert user_id() == os.geteuid()


def test_a_lock_is_refused_as_on_a_disk_without_locks(tmp_path: Path) -> None:
    """And files are written all the same."""
    code = "import sys; sys.modules['fcntl'] = None; from minicpmv.files.atomic_files import write_json; "
    code += "from pathlib import Path; write_json(Path(sys.argv[1]), {'a': 1})"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=True)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
