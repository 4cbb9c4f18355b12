"""What a million records cost before the first batch, in seconds and memory, against a thousand.

    python benchmarks/large_data.py

JSON Lines in ShareGPT's style, 18 to 160 words each, every tenth record with one of 200 pictures. Each row is a process
of its own, with the fixture's processor of 2.6. *opened* is the lines found, *checked* every record read and judged and
every image opened, *counted* the tokens of every record (on all processors, if there are many records), *planned* the
packed rows of the first epoch. With ``--check_first false`` a run does none of the last three in advance. Memory is the
peak of the process that trains.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from minicpmv.data.batches.grouping import BatchPlanner
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.records.reading import open_records
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.mixing import DataSource, load_mixture
from minicpmv.processing.processor import MiniCPMVProcessor

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "v2_6"
LENGTH = 2048
SIZES = (1_000, 1_000_000)
STAGES = ("opened", "checked", "counted", "planned", "first batch")


def make_pictures(folder: Path) -> None:
    """Write the pictures that the records name."""
    for number in range(200):
        Image.linear_gradient("L").resize((100 + number, 160)).save(folder / f"{number}.png")


def make_data(folder: Path, number: int) -> Path:
    """Write that many records."""
    words = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=1 + i % 9)) for i in range(500)]
    generator = random.Random(0)
    path = folder / f"{number}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            question, answer = (
                " ".join(generator.choices(words, k=generator.randint(*span))) for span in ((8, 40), (10, 120))
            )
            record = {"id": f"r{index}", "conversations": [{"from": "human", "value": question}]}
            record["conversations"].append({"from": "gpt", "value": answer})
            if index % 10 == 0:
                record["image"] = f"{index // 10 % 200}.png"
            file.write(json.dumps(record) + "\n")
    return path


def measure(path: str, *, check_first: bool) -> None:
    """Go through what a run does before its first step, and print seconds by stage and the peak memory in MiB."""
    processor = MiniCPMVProcessor.from_pretrained(FIXTURE)
    spent: dict[str, float] = {}
    started = time.perf_counter()

    def finish(stage: str) -> None:
        nonlocal started
        spent[stage] = time.perf_counter() - started
        started = time.perf_counter()

    open_records(path)
    finish("opened")
    records = load_mixture([DataSource(path)], check_first=check_first).records
    if check_first:
        finish("checked")
    dataset = ConversationDataset(records, processor, max_length=LENGTH)
    if check_first:
        lengths = dataset.check_lengths().lengths
        finish("counted")
        row = RowPlanner(lengths, capacity=LENGTH).rows(0)[0]
        finish("planned")
        PackedCollator(0)([dataset[index] for index in row])
    else:
        batch = BatchPlanner(len(dataset), batch_size=4).rows(0)[0]
        Collator(0)([dataset[index] for index in batch])
    finish("first batch")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"spent": spent, "peak": peak}))


def main() -> None:
    """Print a table."""
    print(f"{'':26}" + "".join(f"{stage:>13}" for stage in (*STAGES, "peak memory")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder)
        paths = {number: make_data(folder, number) for number in SIZES}
        for mode in ("checked first", "checked as read"):
            peaks = []
            for number in SIZES:
                command = [sys.executable, __file__, str(paths[number]), mode]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                result = json.loads(done.stdout.splitlines()[-1])
                cells = [f"{result['spent'][stage]:.2f} s" if stage in result["spent"] else "" for stage in STAGES]
                peaks.append(result["peak"])
                label = f"{number:>9,} {mode}"
                print(f"{label:26}" + "".join(f"{cell:>13}" for cell in (*cells, f"{result['peak']:,.0f} MiB")))
            print(f"{'':26}memory {peaks[1] / peaks[0]:.2f} times")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], check_first=sys.argv[2] == "checked first")
    else:
        main()
