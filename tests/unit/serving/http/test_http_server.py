"""Connections that do not do their part are ended, those that do are not, and nobody is shut out by many others."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.docs.repository import ROOT
from tests.processes import started, wait_for

SHORT = {"header_seconds": 1.0, "body_seconds": 4.0, "stall_seconds": 1.0, "request_seconds": 6.0}
LONG = {"header_seconds": 60.0, "body_seconds": 60.0, "stall_seconds": 60.0}
FILES = 200
HALF_HEADERS = b"GET / HTTP/1.1\r\nX-"
POST = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"


class Server:
    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process, self.log, self.port = process, log, port
        self._opened: list[socket.socket] = []

    def close(self) -> None:
        """Close all connections that were opened by ``connect``."""
        for connection in self._opened:
            connection.close()

    def connect(self, sent: bytes = b"", *, source: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0))
        self._opened.append(connection)
        with suppress(OSError):  # turned away at once
            connection.sendall(sent)
        return connection

    def get(self, path: str = "/") -> tuple[int, float]:
        """Return a status and how many seconds it took."""
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status, time.monotonic() - start


@contextmanager
def serving(folder: Path, limits: dict[str, Any], most_files: int = FILES) -> Iterator[Server]:
    log = folder / "log"
    command = [sys.executable, "-m", "tests.unit.serving.small_server", json.dumps(limits), str(most_files)]
    with log.open("w") as written, started(command, stdout=written, stderr=written, cwd=ROOT) as process:
        server = Server(process, log, int(wait_for(r"^port (\d+)$", log, process)[1]))
        try:
            yield server
        finally:
            server.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("short"), SHORT) as running:
        yield running


def is_over(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while piece := connection.recv(2**20):
            del piece
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def seconds_until_over(connection: socket.socket, drip: bytes = b"", *, most: float = 10.0) -> float:
    """Send a piece every tenth of a second until the server ends the connection, which must be within a time."""
    start = time.monotonic()
    while not is_over(connection):
        assert time.monotonic() - start < most, "still open"
        with suppress(OSError):
            connection.send(drip)
        time.sleep(0.1)
    connection.close()
    return time.monotonic() - start


UNFINISHED = {
    "header": (HALF_HEADERS, b"", 0.8, 4.0),
    "dripping header": (HALF_HEADERS, b"y", 0.8, 4.0),
    "nothing": (b"", b"", 0.8, 4.0),
    "body": (POST % b"/", b"", 0.8, 4.0),
    "dripping body": (POST % b"/", b"y", 0.8, 4.0),
    "fast enough, and too long all together": (POST % b"/", b"y" * 5000, 3.5, 7.0),
    "answered before its body came": (POST % b"/early", b"y", 0.8, 5.0),
    "chunks": (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"", 0.8, 4.0),
    "continue": (b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n", b"", 0.8, 4.0),
}
"""What is sent at first and then ten times a second, and between which seconds the connection must be over."""


def test_what_is_not_finished_is_ended(server: Server) -> None:
    def take(case: str) -> bool:
        sent, drip, least, most = UNFINISHED[case]
        return least < seconds_until_over(server.connect(sent), drip) < most

    with ThreadPoolExecutor(len(UNFINISHED)) as pool:
        assert dict(zip(UNFINISHED, pool.map(take, UNFINISHED), strict=True)) == dict.fromkeys(UNFINISHED, True)


def test_a_second_request_that_is_not_finished_is_ended(server: Server) -> None:
    connection = server.connect(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.sendall(HALF_HEADERS)
    assert seconds_until_over(connection) < 4


def test_an_answer_that_nobody_takes_is_ended(server: Server) -> None:
    connection = server.connect(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    start = time.monotonic()
    while _is_held(server, connection):
        assert time.monotonic() - start < 9
        time.sleep(0.1)
    assert time.monotonic() - start > 2
    connection.close()


def _is_held(server: Server, connection: socket.socket) -> bool:
    """Whether the server's end of a connection is there: looked up, because reading would take the answer."""
    port = f":{connection.getsockname()[1]:04X}"
    for line in Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if local.endswith(f":{server.port:04X}") and remote.endswith(port) and state == "01":
            return True
    return False


def test_who_does_their_part_is_not_ended(server: Server) -> None:
    """A late answer, a slow body and a connection that is kept, each longer than a header may take."""
    assert server.get("/late")[0] == 200
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    kept.connect()
    first = kept.sock
    for _ in range(8):
        kept.request("GET", "/")
        assert kept.getresponse().read() == b"0"
        time.sleep(0.3)
    assert kept.sock is first
    kept.putrequest("POST", "/")
    kept.putheader("content-length", "60000")
    kept.endheaders()
    for _ in range(20):
        kept.send(b"y" * 3000)
        time.sleep(0.1)
    assert kept.getresponse().read() == b"60000"
    kept.close()


def test_the_pieces_of_an_answer_do_not_wait_for_each_other(server: Server) -> None:
    """Without TCP_NODELAY an answer on a kept connection takes 40 ms, for which a client may not acknowledge."""
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    seconds: list[float] = []
    for _ in range(20):
        start = time.monotonic()
        kept.request("GET", "/")
        kept.getresponse().read()
        seconds.append(time.monotonic() - start)
    kept.close()
    assert statistics.median(seconds) < 0.03


def test_many_unfinished_connections_shut_nobody_out(tmp_path: Path) -> None:
    with serving(tmp_path, LONG) as server:
        assert re.search(r"at most \d+ connections at once: the limit of open files is 200", server.log.read_text())
        held = [server.connect(HALF_HEADERS) for _ in range(3 * FILES)]
        for path in ("/", "/", "/late"):
            status, seconds = server.get(path)
            assert (status, seconds < 1 + 3 * (path == "/late")) == (200, True), seconds
        assert 50 < sum(not is_over(connection) for connection in held) < FILES
        assert server.log.stat().st_size < 10_000


def test_many_connections_of_one_address_cost_another_none(tmp_path: Path) -> None:
    with serving(tmp_path, LONG) as server:
        others = [server.connect(HALF_HEADERS) for _ in range(20)]
        bodies = [server.connect(POST % b"/") for _ in range(5)]
        for _ in range(3 * FILES):
            server.connect(HALF_HEADERS, source="127.0.0.2")
        assert server.get()[0] == 200
        assert not any(is_over(connection) for connection in others + bodies)


def test_where_all_connections_are_being_answered_a_new_one_is_told_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path, LONG) as server:
        held = [server.connect(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n") for _ in range(FILES)]
        answers = [_first_line(connection) for connection in held]
        assert set(answers) <= {b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable", b""}
        assert answers.count(b"HTTP/1.1 200 OK") > 50
        assert answers.count(b"HTTP/1.1 503 Service Unavailable") > 20


def _first_line(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000).partition(b"\r\n")[0]
    except ConnectionResetError:  # closed before what was sent to it was read
        return b""


def test_no_file_left_is_no_flood_of_lines(tmp_path: Path) -> None:
    with serving(tmp_path, LONG) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        kept.request("GET", "/eat")
        assert kept.getresponse().read() == b"eaten"
        kept.close()
        before = _cpu_seconds(server.process.pid)
        held = [server.connect(HALF_HEADERS) for _ in range(100)]
        time.sleep(1)
        assert sum(not is_over(connection) for connection in held) < 10
        assert _cpu_seconds(server.process.pid) - before < 0.5
        assert server.log.stat().st_size < 10_000
        assert "a connection was turned away: Too many open files" in server.log.read_text()
        time.sleep(1.5)
        assert server.get()[0] == 200


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_too_few_files_are_an_error_at_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.serving.small_server", "{}", "80"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "open files: found a limit of 80 (ulimit -n), expected at least" in ended.stderr
