"""``minicpmv serve`` while clients do not finish what they begin, and worse."""

from __future__ import annotations

import http.client
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import started, wait_for
from tests.run.hostile import Load, ask, attack
from tests.tiny import FIXTURES

NUM_UNFINISHED = 1100
SERVER_FILES = 1024


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def health(self) -> tuple[int, float]:
        """Return the status of ``/health`` and how many seconds it took."""
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        return status, time.monotonic() - start

    def resident_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return 1024 * int(found[1])


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Running]:
    """A server with the usual limit of open files, which must end well."""

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SERVER_FILES, SERVER_FILES))

    log = folder / "log"
    command = [sys.executable, "-m", "minicpmv", "serve", str(FIXTURES / "v2_6"), "--served-model-name", "tiny"]
    command += ["--port", "0", *flags]
    with log.open("w") as written, started(command, stdout=written, stderr=written, preexec_fn=limit_files) as process:
        yield Running(process, log, int(wait_for(r"^Serving tiny at http://127.0.0.1:(\d+)/v1$", log, process)[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--max-queue", "16", "--request-timeout", "20")
    with serving(tmp_path_factory.mktemp("serve"), *flags) as running:
        yield running


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process hold more connections than the server can."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2 * NUM_UNFINISHED:
        pytest.skip(f"needs {2 * NUM_UNFINISHED} open files (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * NUM_UNFINISHED), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def held(port: int, sent: bytes, number: int) -> Iterator[list[socket.socket]]:
    """Open connections that send something and then nothing."""
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(number)]
        for connection in opened:
            with suppress(OSError):  # sent away to make room
                connection.sendall(sent)
        yield opened


@pytest.mark.long
@pytest.mark.usefixtures("many_files")
def test_1100_unfinished_connections_shut_nobody_out(server: Running) -> None:
    before = server.log.stat().st_size
    for _ in range(2):
        with held(server.port, b"GET /health HTTP/1.1\r\nX-", NUM_UNFINISHED):
            status, seconds = server.health()  # the connections before it are still being accepted
            assert (status, seconds < 5) == (200, True), seconds
            answers = [server.health() for _ in range(5)]
            assert {status for status, _ in answers} == {200}
            assert statistics.median(seconds for _, seconds in answers) < 1
    assert server.log.stat().st_size - before < 10_000


def test_half_sent_bodies_take_no_place_in_the_queue(server: Running) -> None:
    load = Load(server.port, "tiny")
    body = load.body("Hi!")
    with held(server.port, load.head(f"content-length: {len(body)}") + body[:-1], 64) as connections:
        assert ask(load, "Hi!")[0] == 200
        connections[-1].sendall(body[-1:])  # one that is finished late is answered
        assert connections[-1].recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.long
def test_64_hostile_clients_change_no_answer(server: Running) -> None:
    load = Load(server.port, "tiny")
    outcomes = attack(load, num_clients=64, seconds=4)
    assert [outcome for outcome in outcomes if outcome.startswith(("wrong", "hang"))] == []
    assert outcomes["right"] > 5, outcomes
    assert {question: ask(load, question) for question in load.right} == {q: (200, a) for q, a in load.right.items()}


@pytest.mark.slow
def test_a_minute_of_64_hostile_clients_changes_no_answer_and_fills_no_memory(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        load = Load(server.port, "tiny")
        ask(load, "Hi!")
        before = server.resident_bytes()
        outcomes = attack(load, num_clients=64, seconds=60)
        print(dict(outcomes), f"{before:,} to {server.resident_bytes():,} bytes", f"log {server.log.stat().st_size:,}")
        assert [outcome for outcome in outcomes if outcome.startswith(("wrong", "hang"))] == []
        assert outcomes["right"] > 100, outcomes
        assert {question: ask(load, question)[1] for question in load.right} == load.right
        assert server.resident_bytes() - before < 2**29
        assert server.log.stat().st_size < 100_000
        assert server.health()[1] < 1
