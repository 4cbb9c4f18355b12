"""Serves the report of runs that go on, to a browser on this machine: the page asks for a newer one every few seconds.

It listens at 127.0.0.1 alone, reads the runs' directories and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

from minicpmv.errors import UsageError
from minicpmv.report.holder import LOCK, find_life
from minicpmv.report.run_directory import FILES, LOG, RUN, read_run
from minicpmv.report.writing import compose
from minicpmv.terminal.streams import advise

__all__ = ["LivePage", "describe_end", "follow", "goes_on", "has_begun"]

_HOST = "127.0.0.1"
_GLANCE = 2.0
"""Seconds between two looks at whether the runs go on."""
_LINGER = 6.0
"""Seconds until the server ends after them, in which an open page has itself renewed."""
_SILENT = {"killed": "killed", "ended": "ended (its console said why)"}
_NAMES = (_HOST, "localhost")
"""Names under which a browser reaches the server. Another name may be a foreign page's, made to lead here."""


def has_begun(directory: str) -> bool:
    """Return whether there is something to read in a run's directory; one that is not there yet, or that a run has just
    occupied, will have it soon.
    """
    place = Path(directory)
    is_awaited = not place.exists() or (place / LOCK).exists()
    return not is_awaited or any((place / name).is_file() for name in (RUN, LOG))


def goes_on(directory: str) -> bool:
    """Return whether a run goes on in a directory, or may, on another machine."""
    return find_life(directory) in ("held", "unknown")


def describe_end(directory: str) -> str | None:
    """Say how a run ended that cannot say it itself, and how to resume it; None if it goes on or has said it."""
    if goes_on(directory):
        return None
    if not has_begun(directory):  # there is a lock alone
        return f"{directory}: killed before its first step; start it again"
    run = read_run(directory)
    if run.status not in _SILENT:
        return None
    if run.checkpoint is None:
        way = "no checkpoint was saved, start it again"
    else:
        way = "resume: the same command with --resume_from_checkpoint true"
    return f"{directory}: {_SILENT[run.status]} after step {run.last_step:,}; {way}"


class LivePage:
    """Makes the page again whenever a file of a run has changed.

    Args:
        directories: Directories of the runs.
        before: Answers before training, as for ``write_report``.
        after: Answers after training, likewise.
        num_examples: Most answers of each kind to show.

    Raises:
        UsageError: A directory is not a run's.
    """

    def __init__(self, directories: Sequence[str], *, before: str | None, after: str | None, num_examples: int) -> None:
        self._directories, self._before, self._after = directories, before, after
        self._num_examples = num_examples
        self._made: tuple[str, bytes] | None = None
        self._lock = Lock()
        self.page()

    def version(self) -> str:
        """Return a text that differs as soon as a file of the runs does."""
        paths = [Path(directory) / name for directory in self._directories for name in FILES]
        paths += [Path(path) for path in (self._before, self._after) if path]
        states = [path.stat() for path in paths if path.is_file()]
        lives = [find_life(directory) for directory in self._directories]
        return "-".join([*(f"{state.st_mtime_ns:x}.{state.st_size:x}" for state in states), *lives])

    def page(self) -> bytes:
        """Return the page, as UTF-8."""
        with self._lock:
            version = self.version()
            if self._made is None or self._made[0] != version:
                report = compose(
                    self._directories,
                    before=self._before,
                    after=self._after,
                    num_examples=self._num_examples,
                    version=version,
                )
                self._made = version, report.page.encode()
            return self._made[1]


def follow(
    live: LivePage, *, port: int, on_ready: Callable[[str], None], is_over: Callable[[], bool] = lambda: False
) -> None:
    """Serve a page until Ctrl-C, or shortly after there is nothing more to follow.

    Args:
        live: The page.
        port: Port, or 0 for any free one.
        on_ready: Called with the address when it can be opened.
        is_over: Asked every few seconds whether that is so.

    Raises:
        UsageError: The port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in _NAMES:
                self.send_error(HTTPStatus.FORBIDDEN, f"open http://{_HOST}:{server.server_port}")
            elif self.path == "/version":
                self._answer("text/plain", live.version().encode())
            elif self.path == "/":
                self._answer("text/html", live.page())
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of requests: each open page sends one every few seconds."""

    if not 0 <= port < 2**16:
        raise UsageError(f"--port: found {port}, expected 0 to 65535\n  fix: name another port, or 0 for any free one")
    try:
        server = ThreadingHTTPServer((_HOST, port), Handler)
    except OSError as error:
        fix = advise(error, otherwise="name another port, or 0 for any free one")
        raise UsageError(f"--port {port}: found {error.strerror}, expected a free port\n  fix: {fix}") from error
    server.daemon_threads = True
    ended = Event()

    def watch() -> None:
        while not ended.wait(_GLANCE):
            if is_over():
                ended.wait(_LINGER)
                server.shutdown()
                return

    with server:
        on_ready(f"http://{_HOST}:{server.server_port}")
        Thread(target=watch, daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
        finally:
            ended.set()
