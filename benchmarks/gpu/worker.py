"""``python -m benchmarks.gpu.worker``: the process that measures, started by ``running``.

Reads a request from each line of standard input, and writes what it finds to a pipe as lines of JSON. When standard
input ends, it ends at once, and all that it has started: whoever asked is gone.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case, CommandFailed, LeftOut, Setting

__all__ = ["main"]

Emit = Callable[[dict[str, Any]], None]
_END = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, until the end is asked for."""
    asked = _parse(arguments)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    os.set_inheritable(asked.events, False)
    with os.fdopen(asked.events, "w", encoding="utf-8", buffering=1) as events:

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event, default=str) + "\n")

        setting = Setting(
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            is_small=asked.small,
            release=asked.release,
            folder=asked.folder,
            output=asked.output,
            traces=asked.traces,
        )
        device = torch.cuda.get_device_name() if setting.is_cuda else platform.machine()
        emit({"ready": setting.device.type, "device": device})
        while (request := requests.get()) != _END:
            wanted = json.loads(request)
            run_stage(wanted["stage"], setting, emit, after=wanted["after"])
            emit({"ends": wanted["stage"]})
    return 0


def run_stage(name: str, setting: Setting, emit: Emit, *, after: str | None) -> None:
    """Measure each case of a stage; one that fails does not keep the next from running.

    Args:
        name: A module of ``benchmarks.gpu.stages``.
        setting: What it is told.
        emit: Called with each finding.
        after: The case to go on behind; None: all.
    """
    cases: list[Case] = []

    def find() -> None:
        cases.extend(importlib.import_module(f"benchmarks.gpu.stages.{name}").cases(setting))

    _guarded(find, setting, emit, {"stage": name})
    names = [case.name for case in cases]
    for case in cases[names.index(after) + 1 if after in names else 0 :]:
        head = {"stage": name, "case": case.name}
        emit({"begins": head})
        _guarded(lambda case=case, head=head: _measure(case, head, emit), setting, emit, head)
        gc.collect()
        if setting.is_cuda:
            torch.cuda.empty_cache()


def _measure(case: Case, head: dict[str, Any], emit: Emit) -> None:
    for finding in case.measure():
        emit({**head, **finding})


def _guarded(action: Callable[[], None], setting: Setting, emit: Emit, head: dict[str, Any]) -> None:
    try:
        action()
    except LeftOut as reason:
        emit({**head, "left_out": str(reason)})
    except Exception as error:
        if not _answers(setting):
            raise  # nothing works any more in this process; another one goes on
        lines = error.last_lines if isinstance(error, CommandFailed) else traceback.format_exc().splitlines()
        emit({**head, "failed": f"{type(error).__name__}: {error}"[:600], "last_lines": lines[-20:]})


def _answers(setting: Setting) -> bool:
    """Whether the device still computes: after an illegal access every call of this process fails."""
    try:
        setting.wait()
        return torch.ones(1, device=setting.device).add(1).item() == 2
    except torch.OutOfMemoryError:
        return True  # the case that failed still holds what it had
    except RuntimeError:
        return False


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line.strip())
    os.killpg(0, signal.SIGKILL)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.worker")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--small", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
