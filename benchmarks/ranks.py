"""What planning the batches of 10 million records costs each of many processes, and how evenly they work.

    python -m benchmarks.ranks
    python -m benchmarks.ranks --records 1000000 --ranks 8 64 --model 4.6

Records are generated as numbers: texts, pictures of one to ten slices, several pictures, long texts. Their costs are
those that a run estimates for the model. Each rank is a thread with the production planner, which hands over pickled
bytes as a run does; its seconds are the processor's for this thread, from lengths to its rows of the first epoch. For
memory, the first rank and the busiest of the others are played again, each in a process of its own, which receives
what it received then. *Waiting* is the share of all ranks' time that is lost when each step takes as long as its
costliest row.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig

import minicpmv  # noqa: F401  registers the models
from minicpmv.data.batches.plan import Rows
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.length_report import LengthReport
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.training.inputs.planned_batches import estimate_costs
from tests.released_sizes import NATIVE, RELEASED

T = TypeVar("T")

CAPACITY = 4096


class _Board:
    """What the ranks hand over, and when all have."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.barrier = threading.Barrier(number)
        self.sent: list[Any] = [None] * number


class _Rank:
    """A rank as a thread, see ``Sharing``. It counts and keeps what it receives."""

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank = rank
        self.number = board.number
        self.board = board
        self.received: list[list[bytes]] = []

    def agree(self, action: Callable[[], T]) -> T:
        return action()

    def first(self, action: Callable[[], T]) -> T:
        content = pickle.dumps(action()) if self.rank == 0 else b""
        return self._receive(content, lambda sent: sent[:1])[0]

    def gather(self, value: T) -> list[T]:
        return self._receive(pickle.dumps(value), lambda sent: [*sent])

    def deal(self, values: Sequence[T]) -> list[T]:
        return self._receive([pickle.dumps(value) for value in values], lambda sent: [each[self.rank] for each in sent])

    def _receive(self, content: Any, choose: Callable[[list[Any]], list[bytes]]) -> list[Any]:
        self.board.sent[self.rank] = content
        self.board.barrier.wait()
        chosen = choose(self.board.sent)
        self.board.barrier.wait()
        self.received.append(chosen)
        return [pickle.loads(each) for each in chosen]  # noqa: S301  made above


class _Replay:
    """One rank of many, alone in its process: it receives what it received then."""

    def __init__(self, rank: int, number: int, received: list[list[bytes]]) -> None:
        self.rank = rank
        self.number = number
        self._received = iter(received)

    def agree(self, action: Callable[[], T]) -> T:
        return action()

    def first(self, action: Callable[[], T]) -> T:
        if self.rank == 0:
            pickle.dumps(action())
        return self._next()[0]

    def gather(self, value: T) -> list[T]:
        pickle.dumps(value)
        return self._next()

    def deal(self, values: Sequence[T]) -> list[T]:
        sent = [pickle.dumps(value) for value in values]
        del sent
        return self._next()

    def _next(self) -> list[Any]:
        return [pickle.loads(each) for each in next(self._received)]  # noqa: S301  this benchmark's own


def generate(number: int, model: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return tokens and costs of so many records: 35 % texts, 45 % one picture, 12 % three, 8 % long texts."""
    draws = np.random.default_rng(0)
    lengths, patches, image_tokens = (np.zeros(number, np.int32) for _ in range(3))
    for start in range(0, number, 2**20):
        part = slice(start, min(start + 2**20, number))
        size = part.stop - part.start
        kind = draws.choice(4, size, p=[0.35, 0.45, 0.12, 0.08])
        text = np.exp(np.where(kind == 3, draws.normal(7, 0.6, size), draws.normal(5, 0.9, size))) + 20
        one = draws.choice([1, 3, 4, 5, 7, 9, 10], (3, size), p=[0.25, 0.1, 0.15, 0.15, 0.1, 0.1, 0.15])
        slices = np.where(kind == 1, one[0], np.where(kind == 2, one.sum(axis=0), 0))
        image_tokens[part] = 64 * slices
        patches[part] = 1024 * slices
        lengths[part] = np.minimum(text, CAPACITY - 66 * slices) + 66 * slices
    report = LengthReport(
        lengths=lengths,
        num_trained=lengths,
        num_image_tokens=image_tokens,
        num_patches=patches,
        patches_per_token=16.0,
        num_reduced=0,
        num_thinned=0,
        num_cut=0,
        left_out={},
    )
    fields = {**RELEASED, **NATIVE}[model]
    config: Any = AutoConfig.for_model(**{"model_type": "minicpmv", **fields})
    return lengths, estimate_costs(report, config, scale_resolution=448)


def plan(lengths: npt.NDArray[np.int32], costs: npt.NDArray[np.float32], sharing: Sharing) -> tuple[int, float, Rows]:
    """Plan the first epoch as a run does; return the number of rows, how full they are, and this rank's."""
    together: Any = None if sharing.number == 1 else lambda work: work(sharing)
    planner = RowPlanner(lengths, capacity=CAPACITY, costs=costs, num_ranks=sharing.number, together=together)
    own = planner.own_rows(0)
    return planner.num_rows, planner.fill, planner.rows(0) if own is None else own


def simulate(number: int, lengths: npt.NDArray[np.int32], costs: npt.NDArray[np.float32], model: str) -> dict[str, Any]:
    """Plan with so many ranks, and measure each."""
    ranks = [_Rank(rank, board) for board in [_Board(number)] for rank in range(number)]
    seconds = [0.0] * number
    found: list[Any] = [None] * number

    def run(rank: int) -> None:
        found[rank] = plan(lengths, costs, ALONE if number == 1 else ranks[rank])
        seconds[rank] = time.thread_time()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    received = [sum(len(each) for message in rank.received for each in message) for rank in ranks]
    steps = np.stack([rows.sums(costs) for _, _, rows in found], axis=1)
    assert sum(len(rows.records) for _, _, rows in found) == len(lengths), "each record has one row"
    imbalance = steps.max(axis=1) / steps.mean(axis=1) - 1
    busiest = 1 + int(np.argmax(seconds[1:])) if number > 1 else 0
    played = {rank: _play(rank, number, ranks[rank].received, len(lengths), model) for rank in (0, busiest)[:number]}
    return {
        "ranks": number,
        "steps": len(steps),
        "fill": found[0][1],
        "seconds, first rank": seconds[0],
        "seconds, busiest other rank": seconds[busiest],
        "seconds, all ranks": sum(seconds),
        "MiB, first rank": played[0],
        "MiB, busiest other rank": played[busiest],
        "MB received, first rank": received[0] / 1e6,
        "MB received, most of another rank": max(received[1:], default=0) / 1e6,
        "MB received, all ranks": sum(received) / 1e6,
        "waiting": float(steps.max(axis=1).sum() / steps.mean(axis=1).sum() - 1),
        "imbalance, mean of steps": float(imbalance.mean()),
        "imbalance, 95 % of steps": float(np.quantile(imbalance, 0.95)),
        "imbalance, worst step": float(imbalance.max()),
        "steps above 3 %": int((imbalance > 0.03).sum()),
    }


def _play(rank: int, number: int, received: list[list[bytes]], num_records: int, model: str) -> float:
    """Return by how many MiB one rank's process grows at most, beyond lengths and costs of the records."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump((rank, number, received, num_records, model), file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.ranks", "--play", file.name]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _play_here(path: Path) -> None:
    with path.open("rb") as file:
        rank, number, received, num_records, model = pickle.load(file)  # noqa: S301  this benchmark's own
    lengths, costs = generate(num_records, model)
    ctypes.CDLL(None).malloc_trim(0)  # what making the records has left
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    plan(lengths, costs, ALONE if number == 1 else _Replay(rank, number, received))
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    print(int(line.split()[1]) / 1024 - before)


def main() -> None:
    """Print a line of JSON for each number of ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024, 64, 8, 1])
    parser.add_argument("--model", default="4.5", choices=[*RELEASED, *NATIVE], help="whose costs; default 4.5")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        _play_here(asked.play)
        return
    lengths, costs = generate(asked.records, asked.model)
    for number in asked.ranks:
        print(json.dumps(simulate(number, lengths, costs, asked.model)), flush=True)


if __name__ == "__main__":
    main()
