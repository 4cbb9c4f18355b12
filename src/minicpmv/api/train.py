"""Trains from Python: ``minicpmv.train`` starts the same run as the command, follows it and raises its errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

from tqdm.auto import tqdm

from minicpmv.api.paths import path_of
from minicpmv.api.run import DryRun, Run
from minicpmv.api.spelling import of_training
from minicpmv.data.sources.in_memory import are_paths, hold_records, write_records
from minicpmv.errors import MachineError, UsageError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.files.places import check_directory
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from minicpmv.training.flags.words.legacy_flags import LEGACY_NAMES
from minicpmv.training.flags.words.values import describe_expected
from minicpmv.training.launching.caller import CALLER, read_error, read_events
from minicpmv.training.launching.following import LAUNCHER, is_launched
from minicpmv.wording import suggest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from minicpmv.api.settings import Settings

__all__ = ["train"]

DATA = "data"
"""Folder in a run's directory for records that were given in memory."""
_GLANCE = 0.2
"""Seconds between two looks at how far the run is, while it prints nothing."""


@of_training()
def train(
    model: str | os.PathLike[str],
    data: Any,
    eval_data: Any = None,
    *,
    output: str | os.PathLike[str],
    **settings: Unpack[Settings],
) -> Run:
    """Fine-tune a model, on all GPUs of this machine, as ``minicpmv train`` does with the same settings, bit for bit.

    The run is a process of its own, the one that the command starts: two runs share nothing, this program keeps its
    random numbers, threads, signal handlers and GPU memory, and all GPUs can be used whatever it has done with them.

    What the run prints is printed here, under a progress bar in a notebook or a terminal. Ctrl-C, or a notebook's
    stop, ends the run after its optimizer step with a checkpoint; a second one ends it at once. The same call with
    ``resume_from_checkpoint=True`` goes on.

    Args:
        model: Directory or name on the hub of the model to start from.
        data: What to train on: a path, a list of paths (``"a.json:2"`` is seen twice in an epoch), or records in any
            form that files may have: a list of dicts, a ``datasets.Dataset`` or a pandas table, with pictures as paths,
            bytes or Pillow's images. Records are written to ``output/data``, from where the run reads them; relative
            paths in them start at ``image_root``, or where this program runs.
        eval_data: What to measure on, likewise, or a dict of several such sets by their names.
        output: Directory of the run.
        **settings: Flags of ``minicpmv train``, by their names.

    Returns:
        The finished run: its metrics, its report, and the trained model. With ``dry_run=True`` a ``DryRun``, whose
        status is ``dry run`` and which has none of these.

    Raises:
        UsageError: A setting is unknown, contradicts another, or asks for what cannot be done.
        DataError: Records cannot be trained on as they are; each is named by its index.
        MiniCPMVError: Anything else that can be mended: a checkpoint, the machine, numbers that are not finite.
        KeyboardInterrupt: The run was stopped; its message says what is saved.
    """
    if is_launched(os.environ):
        raise UsageError(
            "minicpmv.train: found a launcher's variables in the environment (RANK, WORLD_SIZE, ...), expected none: "
            "it starts its own processes\n  fix: call it without a launcher, or use `minicpmv train` behind one"
        )
    given = dict(cast("Mapping[str, Any]", settings))
    _refuse_unknown(given)
    place = path_of(output, "output")
    shows_bar = not given.pop("disable_tqdm", None)
    base = ["--model_name_or_path", path_of(model, "model"), "--output_dir", place]
    base += [word for name, value in given.items() for word in _words(name, value)]
    run = parse_arguments([*base, "--data_path", "records"]).run  # before data are written
    with tempfile.TemporaryDirectory(prefix="minicpmv-") as temporary:
        check_directory(place, asked_by="output")
        folder = Path(temporary if run.dry_run else place, DATA)
        sources = _name_sources(data, "data", folder, run.image_root)
        sets = eval_data if isinstance(eval_data, Mapping) else {"": eval_data}
        held_out = [
            f"{name}={source}" if name else source
            for name, each in sets.items()
            if each is not None
            for source in _name_sources(each, f"eval_data[{name!r}]" if name else "eval_data", folder, run.image_root)
        ]
        words = [*base, "--data_path", *sources, *(["--eval_data_path", *held_out] if held_out else [])]
        parse_arguments(words)
        _run(words, Path(temporary, "events"), shows_bar=shows_bar)
    return DryRun(place) if run.dry_run else Run(place)


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name in OTHER_NAMES.values():
            own = next(short for short, other in OTHER_NAMES.items() if other == name)
            raise UsageError(f"{name}: found as a setting, expected the argument {own}\n  fix: {own}=...")
        if name not in all_settings() and name not in LEGACY_NAMES:
            advice = suggest(name, [*all_settings(), *OTHER_NAMES], otherwise="remove it")
            listed = "`minicpmv train --help` lists all"
            raise UsageError(f"{name}: no such setting, expected one that exists\n  fix: {advice} ({listed})")


def _words(name: str, value: Any) -> Iterator[str]:
    """Yield a setting as its flag; None leaves it at its default, a list for a text is that text with commas."""
    if value is None:
        return
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        setting = all_settings().get(name)
        if setting is None or setting.kind.is_list:
            yield from (f"--{name}", *map(str, value))
        elif setting.kind.of == "text" and value:
            yield f"--{name}={','.join(map(str, value))}"
        else:
            fix = f"{name}={value[0]!r}" if value else f"leave {name} out"
            raise UsageError(f"{name}: found {list(value)!r}, expected {describe_expected(setting)}\n  fix: {fix}")
    elif isinstance(value, Mapping):
        yield f"--{name}={json.dumps(value)}"
    else:
        yield f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


def _name_sources(data: Any, name: str, folder: Path, image_root: str | None) -> list[str]:
    """Return paths of data; records are written into a file first."""
    if are_paths(data):
        paths: Iterable[str | os.PathLike[str]] = [data] if isinstance(data, str | os.PathLike) else data
        return [os.fspath(path) for path in paths]
    return [str(write_records(hold_records(data, name=name), folder, image_root=image_root))]


# ------------------------------------------------------------------------------------------------------------- process


def _run(words: Sequence[str], events: Path, *, shows_bar: bool) -> None:
    """Run the command in a process of its own, and raise here what ends it."""
    events.touch()
    environment = {**os.environ, CALLER: str(events), LAUNCHER: str(os.getpid())}
    command = [sys.executable, "-m", "minicpmv.training", *words]
    # A session of its own: Ctrl-C in a terminal would reach it twice, and once more from here.
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        followed = _Followed(process, events, shows_bar=shows_bar)
        is_interrupted = False
        try:
            while followed.goes_on:
                try:
                    followed.look()
                except KeyboardInterrupt:
                    is_interrupted = True
                    process.send_signal(signal.SIGINT)
        finally:
            followed.close()
            if process.poll() is None and followed.goes_on:  # what is printed here cannot be printed
                process.send_signal(signal.SIGTERM)
    output = words[words.index("--output_dir") + 1]
    _raise(followed.events, process.returncode, output, is_interrupted=is_interrupted)


class _Followed:
    """Prints what a run prints, and shows how far it is."""

    def __init__(self, process: subprocess.Popen[str], events: Path, *, shows_bar: bool) -> None:
        self.goes_on = True
        self.events: list[dict[str, Any]] = []
        """All but steps."""
        self._file, self._read = events, 0
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._bar: Any = None
        self._shows_bar = shows_bar and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        self._thread = Thread(target=self._listen, args=(process.stdout,), daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Wait a moment for the next line."""
        with suppress(Empty):
            line = self._lines.get(timeout=_GLANCE)
            if line is None:
                self.goes_on = False
            elif self._bar is None:
                print(line, flush=True)
            else:
                self._bar.write(line)
        events, self._read = read_events(self._file, self._read)
        for event in events:
            if "step" not in event:
                self.events.append(event)
            elif self._shows_bar:
                self._move(event["step"], event["max_steps"])

    def close(self) -> None:
        """End, with the bar as it is."""
        self._thread.join(_GLANCE)
        if self._bar is not None:
            self._bar.close()

    def _listen(self, output: Iterable[str]) -> None:
        for line in output:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _move(self, step: int, max_steps: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=max_steps, initial=step - 1, unit=" steps")
        self._bar.update(step - self._bar.n)


def _raise(events: Sequence[Mapping[str, Any]], code: int, output: str, *, is_interrupted: bool) -> None:
    if code == 0:
        return
    error = next((event for event in events if "error" in event), None)
    stopped = next((event["stopped"] for event in events if "stopped" in event), None)
    if is_interrupted:
        saved = list_checkpoints(output)
        kept = f"its last checkpoint, {saved[-1]}, is complete" if saved else "nothing was saved"
        raise KeyboardInterrupt(stopped or f"the run was ended at once; {kept}")
    if error is not None:
        raise read_error(dict(error))
    if stopped is not None:
        raise MachineError(f"training: found that it was {stopped}, expected it to end\n  fix: resume it as said there")
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    raise MachineError(
        f"training: found that its process {ended}, expected it to end with 0\n"
        "  fix: see what it has printed (nothing, and killed by SIGKILL: too little memory)"
    )
