"""A Python that has imported everything already, for commands of tests: what is started with it begins at once.

``prepared_python()`` is a command that takes the place of ``sys.executable``, or of the scripts' ``PYTHON``. A forked
process runs what it is told to run, with the folder, environment and open files of whoever asked. That process is no
child of whoever asked, and has the namespaces and limits of the tests: a test that looks for children, mounts something
or limits something starts the real interpreter, and so does one test of each way to start.
"""

from __future__ import annotations

import array
import atexit
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import parent_process, util
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tests.docs.repository import ROOT
from tests.processes import started

# What runs here is small: more threads only wait for each other. Read when torch is imported, in what all fork from.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_context = multiprocessing.get_context("forkserver")
_PRELOADED = ["minicpmv.training.run", "minicpmv.cli.main", "tests.run.frozen"]
_context.set_forkserver_preload(_PRELOADED)

_LAUNCHER = "MINICPMV_LAUNCHER"
"""By it a training process recognises its parent, which it does not have here; its client is the launcher's child."""


def fork(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function in a process that has imported everything."""
    process = _context.Process(target=target, args=arguments)
    # The first one starts the process that all fork from, which finds `tests` only from here, whatever sys.path says.
    folder = os.getcwd()
    os.chdir(ROOT)
    try:
        process.start()
    finally:
        os.chdir(folder)
    return process


_servers: list[tuple[BaseProcess, str]] = []


def prepared_python() -> str:
    """Return the path of the command, with ``minicpmv`` beside it; their server ends with this process."""
    if _servers:
        server, command = _servers[-1]
        if server.is_alive():
            return command
        print(f"the server of prepared processes ended with {server.exitcode}; another is started", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="prepared-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command, listener = _open_shop(folder)
    server = fork(_serve_the_tests, listener, command)
    listener.close()
    util.Finalize(None, server.terminate, exitpriority=100)  # before multiprocessing waits for it
    _servers.append((server, command))
    return command


def served() -> list[psutil.Process]:
    """Return what runs for clients of this process's server: what attends to each, the process, and what it forked."""
    server, _ = _servers[-1]
    return psutil.Process(server.pid).children(recursive=True)


@contextmanager
def own_interpreter_prepared() -> Iterator[None]:
    """Let what this process starts with its own interpreter, such as the proof of a run, begin at once."""
    real, sys.executable = sys.executable, prepared_python()
    try:
        yield
    finally:
        sys.executable = real


@contextmanager
def prepared_python_within(place: Callable[..., list[str]]) -> Iterator[str]:
    """Have such a command whose processes run elsewhere, in other namespaces, until the block is left.

    Args:
        place: Makes of the words of a command those that run it there. Files are the same there.
    """
    with tempfile.TemporaryDirectory(prefix="prepared-") as folder:
        words = place(sys.executable, "-m", "tests.run.prepared", folder)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", *sys.path])}
        with started(words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            command = server.stdout.readline().decode().strip()
            assert command, "the server did not start"
            yield command
            server.stdin.close()
            server.wait(timeout=60)


def _open_shop(folder: Path) -> tuple[str, socket.socket]:
    """Write the commands into a folder; return the path of Python and what the server listens to."""
    address, command = folder / "server", folder / "python"
    client = Path(__file__).with_name("prepared_client.py")
    words = shlex.join([sys.executable, "-I", "-S", str(client), str(address)])
    _write_command(command, f'{words} "$@"')
    _write_command(folder / "minicpmv", f'{words} -m minicpmv "$@"')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    return str(command), listener


def _write_command(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\nexec {line}\n", encoding="utf-8")
    path.chmod(0o755)


def _serve_the_tests(listener: socket.socket, command: str) -> None:
    tests = parent_process()
    assert tests is not None
    _serve(listener, command, until=tests.sentinel)


def _serve(listener: socket.socket, command: str, *, until: int) -> None:
    """Fork a process for each client until something can be read, such as the end of whoever needs them.

    What still runs then ends, too. What is meant for the tests, such as Ctrl-C, is no matter of the server.
    """
    with suppress(PermissionError):  # it leads its group already
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    sys.executable = command
    while until not in wait([listener, until]):
        client, _ = listener.accept()
        with client, suppress(OSError):  # where no process can be had, the client is told so by the end of its line
            if os.fork() == 0:
                listener.close()
                try:
                    _attend(client)
                finally:
                    os._exit(0)
    os.killpg(0, signal.SIGKILL)


def _attend(client: socket.socket) -> None:
    """Run what a client asks for in a process, and tell it how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    length, ancillary, _, _ = client.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    content = b""
    while len(content) < int.from_bytes(length, "big"):
        content += client.recv(2**16)
    process = os.fork()
    if process == 0:
        client.close()
        _run(json.loads(content), streams)
    for number in streams:
        os.close(number)

    def tell_the_end() -> None:
        _, status = os.waitpid(process, 0)
        with suppress(OSError):
            client.sendall(status.to_bytes(4, "big"))

    telling = threading.Thread(target=tell_the_end)
    telling.start()
    while signals := client.recv(1):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(process, signals[0])
    if telling.is_alive():  # the client was killed
        os.kill(process, signal.SIGKILL)
    telling.join()


def _run(request: dict[str, Any], streams: Sequence[int]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop(_LAUNCHER, None)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    for place, number in enumerate(streams):
        os.dup2(number, place)
        os.close(number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  the server's stands for another file, and knows its kind
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    multiprocessing.set_start_method(None, force=True)  # its workers start as everyone's do, not as this process did
    tempfile.tempdir = None  # TMPDIR may be another
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    # That it was imported before is the point of all this.
    warnings.filterwarnings("ignore", ".* found in sys.modules after import of package", RuntimeWarning)
    code = 1
    try:
        _execute(request["words"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  this is the top of a program
        traceback.print_exc()
    finally:  # as Python ends
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _execute(words: list[str]) -> None:
    """Do as ``python WORDS``, of which these tests use few."""
    if words[0] == "-u":
        getattr(sys.stdout, "reconfigure")(write_through=True)  # noqa: B009
        words = words[1:]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] in ("-c", "-"):
        code, rest = (words[1], words[2:]) if words[0] == "-c" else (sys.stdin.read(), words[1:])
        sys.argv = [words[0], *rest]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        raise SystemExit(f"a prepared Python runs -m MODULE, -c CODE and standard input, not {words[0]}")


def main(folder: str) -> None:
    """Serve here until standard input ends."""
    for module in _PRELOADED:
        import_module(module)
    command, listener = _open_shop(Path(folder))
    print(command, flush=True)
    _serve(listener, command, until=0)


if __name__ == "__main__":
    main(sys.argv[1])
