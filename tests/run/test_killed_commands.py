"""Commands killed at drawn moments: what they write is whole or absent, and the next start leaves nothing over."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.exportable import write_exportable
from tests.run import forked
from tests.run.training import flags, make_data
from tests.tiny import FIXTURES


@dataclass(frozen=True)
class Written:
    """What a command writes: the words to type, and names in the folder in which it is started."""

    words: str
    names: tuple[str, ...]
    is_repeatable: bool = True
    """Whether it writes the same bytes each time: pages and records of when do not."""


COMMANDS = {
    "export": Written("export {models}/exportable --output out --no-logits", ("out",)),
    "eval": Written("eval {models}/base {data} --output out --max-new-tokens 4", ("out",)),
    "predict": Written("predict {models}/base {data} --output out --max-new-tokens 4", ("out", "out.run.json")),
    "pairs": Written(
        "pairs {models}/base {data} --output out --max-new-tokens 4 --answers 2 --judge cer --keep-lengths",
        ("out", "out.run.json", "out.answers.jsonl", "out.answers.jsonl.run.json"),
    ),
    "convert": Written("convert {data} --output out", ("out",)),
    "demo": Written("demo --output out", ("out",)),
    "merge": Written("merge {models}/lora out --no-verify", ("out",), is_repeatable=False),
    "show": Written("show {data} --model {models}/base --output out", ("out",)),
    "report": Written("report {models}/lora --output out", ("out",), is_repeatable=False),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data and models that the commands read."""
    models = tmp_path_factory.mktemp("models")
    (models / "base").symlink_to(FIXTURES / "v2_6")
    write_exportable(models / "exportable", "v2_6")
    data = make_data(models, num_records=6)
    trained = forked.run_command(flags(data, models / "lora", "--use_lora", "true", steps=1))
    assert trained.returncode == 0, trained.stderr
    return {"models": str(models), "data": data}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _content(folder: Path, *, repeatable: bool) -> dict[str, str]:
    """Name all files below a folder, with their digests or, where those differ each time, their ends."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if repeatable or path.suffix == ".safetensors"
        else path.read_bytes()[-2:].decode("latin-1").strip()
        for path in _files(folder)
    }


def _visible(folder: Path, names: tuple[str, ...], *, repeatable: bool) -> dict[str, str]:
    found = _content(folder, repeatable=repeatable)
    shown = {name: digest for name, digest in found.items() if name.split("/")[0] in names}
    return {name: digest for name, digest in shown.items() if not any(part[0] == "." for part in name.split("/"))}


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        hidden = [each for each in path.iterdir() if each.name[0] == "."] if path.is_dir() else []
        if path.is_dir() and not hidden:
            shutil.rmtree(path)
        elif path.is_dir():
            for each in set(path.iterdir()) - set(hidden):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        else:
            path.unlink(missing_ok=True)


def _state(folder: Path) -> set[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        try:
            return {(each.name, each.inode(), each.stat().st_mtime_ns) for each in entries}
        except FileNotFoundError:  # one was renamed while it was looked at, which is a change too
            return {("", 0, 0)}


def _kill(words: list[str], folder: Path, moment: float, *, log: Path, while_writing: bool) -> None:
    process = forked.start(words, log=log, module="minicpmv")
    before = _state(folder)
    while while_writing and process.is_alive() and _state(folder) == before:
        time.sleep(0.0005)
    process.join(moment)
    process.kill()
    forked.exit_code(process)


def _try(name: str, given: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch, *, kills: int) -> None:
    command, logs = COMMANDS[name], folder / "logs"
    words = command.words.format(**given).split()
    logs.mkdir()
    for place in ("whole", "killed"):
        (folder / place).mkdir()
    monkeypatch.chdir(folder / "whole")
    started = time.monotonic()
    assert forked.exit_code(forked.start(words, log=logs / "whole", module="minicpmv")) == 0, (
        logs / "whole"
    ).read_text()
    lasts = time.monotonic() - started
    whole = _content(folder / "whole", repeatable=command.is_repeatable)
    killed = folder / "killed"
    monkeypatch.chdir(killed)
    drawn = random.Random(name)
    for number in range(kills):
        while_writing = number % 2 == 0
        moment = drawn.uniform(0, 0.05 if while_writing else lasts)
        _kill(words, killed, moment, log=logs / str(number), while_writing=while_writing)
        seen = _visible(killed, command.names, repeatable=command.is_repeatable)
        parts = {key: value for key, value in seen.items() if whole.get(key) != value}
        assert not parts, f"killed after {moment:.3f} s: {sorted(parts)} are not whole"
        _remove(killed, command.names)
    last = forked.start(words, log=logs / "last", module="minicpmv")
    assert forked.exit_code(last) == 0, (logs / "last").read_text()
    assert _content(killed, repeatable=command.is_repeatable) == whole


# One for each way of writing: a file, a file that grows beside its record, a folder. The others take longer, below.
@pytest.mark.parametrize("name", ["convert", "predict", "merge"])
def test_killed_command_leaves_nothing_over(
    name: str, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _try(name, given, tmp_path, monkeypatch, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command_killed_twenty_times_leaves_nothing_over(
    name: str, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _try(name, given, tmp_path, monkeypatch, kills=20)


@pytest.mark.long
@pytest.mark.parametrize("name", ["eval", "convert", "report", "show", "predict", "demo", "merge", "export"])
@pytest.mark.parametrize("most_bytes", [4000, 5000])
def test_full_disk_is_one_message_and_leaves_nothing(
    name: str, most_bytes: int, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file can grow beyond a limit: that fails within the writers that a full disk stops, without a mount.

    What is tried before the work takes more than the one limit and less than the other.
    """
    command, log = COMMANDS[name], tmp_path / "log"
    (tmp_path / "disk").mkdir()
    monkeypatch.chdir(tmp_path / "disk")
    words = command.words.format(**given).split()
    if name == "eval":
        words[words.index("--max-new-tokens") + 1] = "400"  # more than is buffered
    code = forked.exit_code(forked.start(words, log=log, module="minicpmv", most_file_bytes=most_bytes))
    errors = log.read_text(encoding="utf-8")
    if code == 0:  # what it writes is smaller
        assert all(path.stat().st_size <= most_bytes for path in _files(Path.cwd()))
        return
    assert code == 2, errors
    assert errors.count("error: ") == 1
    assert "File too large" in errors
    assert "make room" not in errors
    assert "Traceback" not in errors
    assert [path.name for path in _files(Path.cwd()) if path.name != "out.partial"] == []
