"""Clients that mean no good, and among them some that do: who gets a wrong answer, and who hangs.

``python -m tests.run.hostile PORT MODEL SECONDS [KEY]`` asks a server that runs already.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

__all__ = ["Load", "ask", "attack"]

_HANG_SECONDS = 60
"""No exchange may take longer, on a machine that does much else as well."""
_QUESTIONS = ("Hi!", "Describe this image in detail.", "1 + 1 =", "What is this?")


@dataclass(slots=True)
class Load:
    """A server under attack, and what came of it."""

    port: int
    model: str
    key: str = ""
    right: dict[str, str] = field(default_factory=dict[str, str])
    """What is answered to each question while nobody attacks."""
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=_HANG_SECONDS)

    def head(self, *lines: str) -> bytes:
        first = ["POST /v1/chat/completions HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        return "\r\n".join([*first, f"authorization: Bearer {self.key}", *lines, "", ""]).encode()

    def body(self, question: str, *, stream: bool = False, max_tokens: int = 8) -> bytes:
        messages = [{"role": "user", "content": question}]
        return json.dumps(
            {"model": self.model, "messages": messages, "max_tokens": max_tokens, "stream": stream}
        ).encode()


def ask(load: Load, question: str, *, stream: bool = False) -> tuple[int, str]:
    """Ask a question and return the status and the answer's text."""
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=_HANG_SECONDS)
    try:
        headers = {"authorization": f"Bearer {load.key}"}
        connection.request("POST", "/v1/chat/completions", load.body(question, stream=stream), headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        return response.status, text
    if not stream:
        return 200, json.loads(text)["choices"][0]["message"]["content"]
    *chunks, end = text.removesuffix("\n\n").split("\n\n")
    if end != "data: [DONE]":
        return 200, f"a stream without an end: {end}"
    choices = [json.loads(chunk.removeprefix("data: "))["choices"] for chunk in chunks]
    return 200, "".join(choice[0]["delta"].get("content", "") for choice in choices if choice)


def attack(load: Load, *, num_clients: int, seconds: float) -> Counter[str]:
    """Let clients do their worst, and return how often what came of it.

    ``wrong: ...`` and ``hang`` must not be among it; ``right`` are answers that are those of a quiet time.
    """
    load.right = {question: ask(load, question)[1] for question in _QUESTIONS}
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(num_clients) as pool:
        for done in [pool.submit(_act, load, number, end) for number in range(num_clients)]:
            done.result()
    return load.outcomes


def _act(load: Load, number: int, end: float) -> None:
    drawn = random.Random(number)
    while time.monotonic() < end:
        deed = _well_meant if number % 4 == 0 else drawn.choice(_DEEDS)
        start = time.monotonic()
        try:
            outcome = deed(load, drawn)
        except TimeoutError:
            outcome = "hang"
        except (OSError, http.client.HTTPException):
            outcome = "connection ended"
        if time.monotonic() - start > _HANG_SECONDS:
            outcome = "hang"
        load.outcomes[outcome] += 1
        if outcome == "busy":
            time.sleep(0.1)


def _well_meant(load: Load, drawn: random.Random) -> str:
    question = drawn.choice(_QUESTIONS)
    status, text = ask(load, question, stream=drawn.random() < 0.3)
    if status in (429, 503, 504):  # 504: the machine is too slow for so many
        return "busy"
    return "right" if (status, text) == (200, load.right[question]) else f"wrong: {status} {text!r:.200}"


def _half_close(load: Load, drawn: random.Random) -> str:
    with load.connect() as connection:
        body = load.body(_QUESTIONS[0])
        connection.sendall(load.head(f"content-length: {len(body)}") + body[: drawn.randrange(len(body) + 1)])
        connection.shutdown(socket.SHUT_WR)
        return _read_all(connection)


def _be_slow(load: Load, drawn: random.Random) -> str:
    """Send a request byte by byte, and leave in the middle of it."""
    body = load.body(_QUESTIONS[0])
    sent = load.head(f"content-length: {len(body)}") + body
    with load.connect() as connection:
        for byte in sent[: drawn.randrange(20, len(sent))]:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)
    return "left"


def _send_garbage(load: Load, drawn: random.Random) -> str:
    with load.connect() as connection:
        connection.sendall(drawn.choice((os.urandom(4096), b"\x16\x03\x01" + os.urandom(500), b"GET / HTTP/9\r\n\r\n")))
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return _read_all(connection)


def _break_length(load: Load, drawn: random.Random) -> str:
    """Say a length that is none, or not that of the body, or two at once."""
    body = load.body(_QUESTIONS[0])
    lines = drawn.choice(
        (
            ["content-length: -1"],
            ["content-length: 99999999999999999999"],
            ["content-length: 5", "content-length: 6"],
            [f"content-length: {len(body)}", "transfer-encoding: chunked"],
            ["transfer-encoding: chunked"],
            ["transfer-encoding: gzip"],
            ["content-length: 10"],
        )
    )
    with load.connect() as connection:
        connection.sendall(load.head(*lines) + body)
        connection.shutdown(socket.SHUT_WR)
        return _read_all(connection)


def _leave_stream(load: Load, drawn: random.Random) -> str:
    body = load.body(_QUESTIONS[1], stream=True, max_tokens=200)
    with load.connect() as connection:
        connection.sendall(load.head(f"content-length: {len(body)}") + body)
        connection.recv(drawn.randrange(1, 400))
    return "left"


def _send_too_much(load: Load, drawn: random.Random) -> str:
    """Send a body of 34 MiB, which is more than is taken, whole or in part."""
    size = 34 * 2**20
    piece = b" " * 2**20
    with load.connect() as connection:
        connection.sendall(load.head(f"content-length: {size}"))
        for _ in range(drawn.choice((3, 34))):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return _read_all(connection)


def _read_all(connection: socket.socket) -> str:
    while connection.recv(2**16):
        pass
    return "answered or ended"


_DEEDS: tuple[Callable[[Load, random.Random], str], ...] = (
    _half_close,
    _be_slow,
    _send_garbage,
    _break_length,
    _leave_stream,
    _send_too_much,
    _well_meant,
)


if __name__ == "__main__":
    print(
        attack(Load(int(sys.argv[1]), sys.argv[2], "".join(sys.argv[4:])), num_clients=64, seconds=float(sys.argv[3]))
    )
