"""Writes the file of answers, complete or not at all, and next to it a partial file to resume from.

``OUTPUT.partial`` begins with a line that identifies the run. After it come the answers of the finished batches in
their final form, each preceded by a digest of the state of its image files. Whatever kills the process, the same run
resumes after the last batch that is complete and whose images are unchanged. So its batches, and therefore its
answers, equal those of an uninterrupted run, and an image may be repaired in between. ``OUTPUT.run.json`` says which
run made the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.answers import Answers, Draws
from minicpmv.data.records.file_state import FileState
from minicpmv.data.records.inline_images import is_embedded
from minicpmv.data.records.record import Record
from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import open_in_place, replacing, write_json
from minicpmv.files.places import check_file
from minicpmv.files.posix import fcntl
from minicpmv.inference.identity import describe_differences
from minicpmv.inference.predicting import Prediction
from minicpmv.terminal.streams import advise

__all__ = ["PartialAnswers", "check_output", "check_place", "write_finished"]

_STATE_DIGITS = 16


def check_place(output: Path) -> None:
    """Verify that a file can be created there.

    Raises:
        UsageError: It cannot be created.
    """
    check_file(output, asked_by="--output", replaces="any")  # `check_output` decides, by the run that made it


def check_output(output: Path, run: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether nothing is left to do, before the model is loaded.

    Args:
        output: The file.
        run: Identity of the run, from ``describe_identity``.
        overwrite: Whether a finished file, or answers of another run, may be replaced.

    Raises:
        UsageError: Such a file exists and may not be replaced.
    """
    if overwrite:
        return False
    if output.exists():
        made = _read_json(_proof(output))
        if made is None:
            found = "a file without a record of the run that made it"
        elif made["run"] != run:
            found = f"a file of another run: {describe_differences(made['run'], run)}"
        elif made["sha256"] != _digest(output):
            found = "a file that was changed after it was written"
        else:
            _partial(output).unlink(missing_ok=True)  # left by a process killed just before cleanup
            return True
        raise UsageError(f"--output {output}: found {found}, expected none\n  fix: name another file, or --overwrite")
    _check_partial(output, run)
    return False


def _check_partial(output: Path, run: Mapping[str, Any]) -> None:
    path = _partial(output)
    try:
        with _read_partial(output) as file:
            line, has_answers = file.readline(), bool(file.read(1))
    except FileNotFoundError:
        return
    if not line.endswith(b"\n"):  # left by a process killed at its start
        return
    header = _parse(line)
    if header is not None and not has_answers:  # nothing is lost
        return
    if header is None or not isinstance(header.get("run"), dict):
        found = "no line that identifies its run"
    elif header["run"] != _of_all_batches(run):
        found = f"answers of another run: {describe_differences(header['run'], _of_all_batches(run))}"
    else:
        return
    raise UsageError(
        f"{path}: found {found}; expected this run's\n"
        "  fix: use the earlier options to resume it, name another --output, or start over with --overwrite"
    )


class PartialAnswers:
    """Stores the answers of finished batches. Use it in a ``with`` statement, in one process at a time.

    Args:
        output: The file to write.
        run: As for ``check_output``, which has checked the existing files.
        asked: The questions, in the order of the file.
        batches: Positions of the questions of each batch, in the order in which they are answered.
    """

    def __init__(
        self,
        output: Path,
        run: Mapping[str, Any],
        *,
        asked: Answers | Draws,
        batches: Sequence[NDArray[np.int64]],
    ) -> None:
        self._output = output
        self._run = dict(run)
        self._asked = asked
        self._batches = batches
        self._starts = np.zeros(len(asked), dtype=np.int64)
        """Offset of each answer in the partial file, in bytes."""
        self.num_done = 0
        """Batches."""
        self._open = ExitStack()

    def __enter__(self) -> PartialAnswers:
        with ExitStack() as stack:
            with _refused(self._output):
                self._file = stack.enter_context(_open_partial(self._output))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{_partial(self._output)}: found another process writing it, expected none\n"
                    "  fix: wait for that process, or name another --output"
                ) from error
            self._recall()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Store the next batch; when this returns, killing the process does not lose it.

        Raises:
            UsageError: The disk is full, or fails.
        """
        start = self._file.seek(0, os.SEEK_END)
        content = b""
        for prediction in predictions:
            answer = asdict(prediction) | self._asked.fields(prediction.index)
            if prediction.reference is None:
                del answer["reference"]
            if not prediction.references:
                del answer["references"]
            content += _state(self._asked[prediction.index]) + b" "
            self._starts[prediction.index] = start + len(content)
            content += _line(answer)
        self._write(content)
        self.num_done += 1

    def finish(self) -> None:
        """Write the complete file in the order of the records, in one step, and remove the partial one.

        Raises:
            UsageError: The disk is full, or fails.
        """
        assert self.num_done == len(self._batches), "answers are missing"
        with _refused(self._output), replacing(self._output, refused=lambda error: error) as file:
            digest = self._write_in_order(file)
            # Before the file, so that no finished file is without it. A run killed in between resumes here.
            made = {"run": self._run, "answers": len(self._asked), "sha256": digest}
            write_json(_proof(self._output), made)
        _partial(self._output).unlink()

    def _recall(self) -> None:
        """Find the complete batches, and truncate the file after them."""
        with _read_partial(self._output) as file:
            line = file.readline()
            header = _parse(line)
            if header is None or header.get("run") != _of_all_batches(self._run):
                self._file.truncate(0)
                self._write(_line({"run": _of_all_batches(self._run)}))
                return
            end = len(line)
            for batch in self._batches:
                starts = self._find_batch(file, batch)
                if starts is None:
                    break
                self._starts[batch] = starts
                self.num_done, end = self.num_done + 1, file.tell()
        self._file.truncate(end)

    def _find_batch(self, file: BinaryIO, batch: NDArray[np.int64]) -> list[int] | None:
        """Return the offsets of a batch's answers; None unless all are complete and their images unchanged."""
        starts: list[int] = []
        for index in batch.tolist():
            state = file.read(_STATE_DIGITS + 1)
            starts.append(file.tell())
            answer = _parse(file.readline())
            if answer is None or state[:-1] != _state(self._asked[index]):
                return None
            if not answer.items() >= self._asked.fields(index).items():
                return None
        return starts

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        with _refused(self._output):
            while left:
                left = left[self._file.write(left) :]

    def _write_in_order(self, file: BinaryIO) -> str:
        """Write every answer, and return the file's digest."""
        digest = hashlib.sha256()
        with _read_partial(self._output) as answers:
            for start in self._starts.tolist():
                answers.seek(start)
                line = answers.readline()
                digest.update(line)
                file.write(line)
        return digest.hexdigest()


def write_finished(output: Path, run: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> int:
    """Write a whole file in one step, with a record of the run that made it, for ``check_output``.

    Args:
        output: The file.
        run: Identity of the run.
        lines: What its lines hold.

    Returns:
        The number of lines.

    Raises:
        UsageError: The disk is full, or fails.
    """
    digest, number = hashlib.sha256(), 0
    with _refused(output), replacing(output, refused=lambda error: error) as file:
        for number, content in enumerate(lines, 1):  # noqa: B007
            line = _line(content)
            digest.update(line)
            file.write(line)
        write_json(_proof(output), {"run": dict(run), "answers": number, "sha256": digest.hexdigest()})
    return number


@contextmanager
def _refused(output: Path) -> Iterator[None]:
    """Translate a disk's errors into a message."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"--output {output}: found that the answers cannot be written ({error.strerror}), expected space for them"
            f"\n  fix: {advise(error)}; the same command resumes where this one ended"
        ) from error


def _state(record: Record) -> bytes:
    """Digest the sizes and modification times of a record's image files."""
    states = [_look(image) for image in record.images if isinstance(image, str) and not is_embedded(image)]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:_STATE_DIGITS].encode()


def _look(path: str) -> FileState | None:
    try:
        return FileState.of(path)
    except OSError:  # opening it reports the fault
        return None


def _of_all_batches(run: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the entries that are compared batch by batch."""
    return {name: value for name, value in run.items() if name != "images"}


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _open_partial(output: Path) -> FileIO:
    # Unbuffered, so that a write refused by a full disk is not tried again.
    number = open_in_place(_partial(output), os.O_RDWR | os.O_APPEND | os.O_CREAT)
    return open(number, "a+b", buffering=0)


def _read_partial(output: Path) -> BinaryIO:
    return open(open_in_place(_partial(output), os.O_RDONLY), "rb")


def _proof(output: Path) -> Path:
    return output.with_name(f"{output.name}.run.json")


def _line(content: Mapping[str, Any]) -> bytes:
    # A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is truncated."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and isinstance(content.get("run"), dict) and "sha256" in content
    return content if is_ours else None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
