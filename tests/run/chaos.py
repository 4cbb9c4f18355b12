"""Kills a run at random moments, in every way it may end, and continues it: the result must be the uninterrupted run's.

``python -m tests.run.chaos --moments 20`` does it twenty times and prints what happened; the default suite a few times.
With a small disk, here as somebody who need not be root, it is the disk that runs full:

    unshare -rm sh -c 'mount -t tmpfs -o size=40m tmpfs /mnt && python -m tests.run.chaos --disk /mnt'
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from minicpmv.files.atomic_files import STAGING
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.manifest import find_fault
from tests.run import forked
from tests.run.training import flags, make_data

WEIGHTS = "adapter_model.safetensors"
_FULL_DISK, _STOPPED = 2, 128 + signal.SIGTERM


@dataclass
class Chaos:
    """One run, killed again and again.

    Args:
        arguments: Of the training command; it must save often and resume.
        output: Its directory.
        logs: A folder for what the runs print.
        seed: Of the moments.
        has_small_disk: Whether the folder above ``output`` may be filled up to the last byte.
    """

    arguments: list[str]
    output: Path
    logs: Path
    seed: int
    has_small_disk: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._num_starts = 0
        self.logs.mkdir()

    def kill_anywhere(self) -> str:
        process = self._start()
        moment = self._random.uniform(0, 3)
        process.join(moment)
        process.kill()
        return f"SIGKILL {moment:.2f} s after the start: {forked.exit_code(process)}"

    def kill_while_saving(self) -> str:
        process = self._start()
        self._await(process, self._is_saving)
        moment = self._random.uniform(0, 0.06)
        time.sleep(moment)
        process.kill()
        return f"SIGKILL {moment * 1000:.0f} ms into a save: {forked.exit_code(process)}"

    def stop(self) -> str:
        """SIGTERM during training; ends with 143 unless the run is done already."""
        process = self._start()
        self._await(process, lambda: "step " in self._printed)
        moment = self._random.uniform(0, 0.8)
        process.join(moment)
        process.terminate()
        code = forked.exit_code(process)
        assert code in (0, _STOPPED), f"SIGTERM ended the run with {code}"
        return f"SIGTERM {moment:.2f} s after the first step: {code}"

    def stop_in_a_hurry(self) -> str:
        """SIGTERM while saving, and a second one as soon as it counts."""
        process = self._start()
        self._await(process, self._is_saving)
        process.terminate()
        time.sleep(1.05)
        if process.is_alive():
            process.terminate()
        return f"SIGTERM twice: {forked.exit_code(process)}"

    def fill_the_disk(self) -> str:
        """A write fails: on a disk of its own for lack of room, elsewhere because no file can grow beyond some size."""
        if self.has_small_disk:
            room = int(self._random.uniform(0, 2_000_000))
            told = f"{room:,} bytes free"
            with self._filled_up(room):
                code = forked.exit_code(self._start())
        else:
            most = self._random.choice([12_000, 20_000, 200_000, 800_000])
            told = f"no room beyond {most:,} bytes"
            code = forked.exit_code(self._start(most_file_bytes=most))
        assert code == _FULL_DISK, f"a full disk ended the run with {code}"
        staging = self.output / STAGING
        assert not staging.exists() or not any(staging.iterdir()), "half a checkpoint was left"
        return f"{told}: {code}"

    def tear_a_file(self) -> str:
        """Damage the newest checkpoint: cut one of its files, or change one of its bytes."""
        process = self._start()
        self._await(process, self._is_saving)
        self._await(process, lambda: len(list_checkpoints(self.output)) > 1)
        process.kill()
        forked.exit_code(process)
        newest = list_checkpoints(self.output)[-1]
        path = self._random.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
        at = self._random.randrange(path.stat().st_size)
        if self._random.random() < 0.5:
            os.truncate(path, at)
        else:
            content = bytearray(path.read_bytes())
            content[at] ^= 1
            path.write_bytes(content)
        # A byte of the manifest that changes nothing it says does no harm.
        assert path.name == "checkpoint.json" or find_fault(newest, check_content=True), f"{path} was not recognised"
        return f"damage at byte {at:,} of {newest.name}/{path.name}"

    def finish(self) -> str:
        """Let the run go on to its end; return the digest of what it saved."""
        code = forked.exit_code(self._start())
        assert code == 0, f"the last start ended with {code}"
        return digest(self.output)

    @property
    def ways(self) -> list[Callable[[], str]]:
        return [
            self.kill_anywhere,
            self.stop,
            self.kill_while_saving,
            self.fill_the_disk,
            self.tear_a_file,
            self.stop_in_a_hurry,
        ]

    # -------------------------------------------------------------------------------------------------------- inside

    @contextmanager
    def _filled_up(self, room: int) -> Iterator[None]:
        shutil.rmtree(self.output / STAGING, ignore_errors=True)  # the next start does so, and would have room again
        filler = self.output.parent / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(filler).free - room)
        try:
            yield
        finally:
            filler.unlink()

    def _start(self, most_file_bytes: int | None = None) -> BaseProcess:
        self._num_starts += 1
        return forked.start(self.arguments, log=self._log, most_file_bytes=most_file_bytes)

    @property
    def _log(self) -> Path:
        return self.logs / f"{self._num_starts}.log"

    @property
    def _printed(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def _is_saving(self) -> bool:
        if "trainable" not in self._printed:  # what the run before left is still there
            return False
        staging = self.output / STAGING
        return staging.exists() and any(path.name.startswith("checkpoint-") for path in staging.iterdir())

    def _await(self, process: BaseProcess, has_come: Callable[[], bool]) -> None:
        """Wait for a moment, or for the end of a run in which it does not come again."""
        deadline = time.monotonic() + 60
        while process.is_alive() and not has_come():
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.001)


def digest(output: Path) -> str:
    return hashlib.sha256((output / WEIGHTS).read_bytes()).hexdigest()


def arguments(data: str, output: Path, *, steps: int = 12) -> list[str]:
    """A run with everything that has a state: shuffling, dropout, momentum, a schedule; and a save after each step."""
    extra = "--use_lora --lora_r 4 --lora_dropout 0.3 --train_sampling_strategy random --save_steps 1 --packing false"
    extra += " --save_total_limit 3 --lr_scheduler_type cosine --resume_from_checkpoint true"
    return flags(data, output, *extra.split(), steps=steps)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.run.chaos", description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="how often the run is ended")
    parser.add_argument("--steps", type=int, default=24, help="of a whole run, with a save after each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--disk", type=Path, help="an empty disk of about 40 MB, which is filled up now and then")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = make_data(root)

        def make(name: str, seed: int) -> Chaos:
            output = (asked.disk or root) / name
            words = arguments(data, output, steps=asked.steps)
            return Chaos(words, output, root / f"{name}-logs", seed, has_small_disk=asked.disk is not None)

        expected = make("whole", 0).finish()
        chaos, found = make("0", asked.seed), []
        for moment in range(asked.moments):
            if (chaos.output / WEIGHTS).exists():  # done in spite of everything: once more
                found.append(chaos.finish())
                chaos = make(str(moment), asked.seed + moment)
            told = chaos.ways[moment % len(chaos.ways)]()
            steps = [path.name.rpartition("-")[2] for path in list_checkpoints(chaos.output)]
            print(f"{moment + 1:3}  {told}; checkpoints {', '.join(steps) or 'none'}", flush=True)
        found.append(chaos.finish())
        same = all(digest == expected for digest in found)
        print(f"{len(found)} run(s) ended {asked.moments} times: weights {'identical' if same else 'DIFFER'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
