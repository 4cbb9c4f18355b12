"""``PYTHON`` of :mod:`tests.run.prepared`: asks the server for a process, and ends as that process ends.

Started as ``python -I -S prepared_client.py ADDRESS WORDS``; the words are those of Python's own command line. It
imports what it needs and no more, because it is what is left of a start that took seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

_PREPARED = ("-m", "-c", "-", "-u")
"""First words of what the server runs; with any other, such as -I, the real interpreter is what was asked for."""


def main(address: str, words: list[str]) -> int:
    """Return the exit code; a process that a signal has ended ends this one by the same."""
    os.umask(mask := os.umask(0))
    request = {
        "words": words,
        "umask": mask,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "ignored": [number for number in _HANDED_ON if signal.getsignal(number) is signal.SIG_IGN],
    }
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):  # its server is gone: slower, and the same
            os.execv(sys.executable, [sys.executable, *words])
        for number in _HANDED_ON:
            if number not in request["ignored"]:
                signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)  # until the request is whole
        socket.send_fds(server, [len(content).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(content)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
        status = server.recv(4)
    if not status:
        sys.exit("the server of prepared processes is gone")
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big"))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if not sys.argv[2:] or sys.argv[2] not in _PREPARED:
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
    sys.exit(main(sys.argv[1], sys.argv[2:]))
