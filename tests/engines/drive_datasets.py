"""Runs in TRL's environment, which holds ``datasets``: reads that package's data sets of our records, and trains.

    python drive_datasets.py REQUEST.json RESULT.npz

REQUEST: ``model`` (a directory), ``data`` (a file of records), ``folder`` (for outputs), ``settings`` (of
``minicpmv.train``). RESULT: ``forms``, what is read of each form of data set, by its name, as JSON; ``losses`` of a
training on the one whose pictures are decoded; ``splits``, the error that two splits at once are refused with;
``classes``, the answers that are read of classes with names, in memory and from files.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, load_dataset, load_from_disk

import minicpmv
from minicpmv.data.sources.in_memory import load_held
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import UsageError
from tests.engines.ours import contents


def make_forms(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the same records as people have them: pictures named, decoded, as bytes; in memory, on disk, streamed."""
    named = Dataset.from_list(rows)
    decoded = named.cast_column("image", Image())
    encoded = named.cast_column("image", Image(decode=False))
    several = named.map(lambda row: {"images": [row["image"]] if row["image"] else None}, remove_columns="image")
    named.save_to_disk(str(folder / "saved"))
    encoded.to_parquet(str(folder / "rows.parquet"))
    return {
        "named": named,
        "decoded": decoded,
        "encoded": encoded,
        "several": several.cast_column("images", List(Image())),
        "saved": load_from_disk(str(folder / "saved")),
        "streamed": load_dataset("parquet", data_files=str(folder / "rows.parquet"), split="train", streaming=True),
        "pandas": named.to_pandas(),
    }


def read_classes(folder: Path) -> list[str]:
    """Return the answer of one record, a class with a name, from everywhere such a record may be."""
    rows = Dataset.from_list([{"question": "Which?", "answer": 1}])
    rows = rows.cast_column("answer", ClassLabel(names=["cat", "dog"]))
    rows.save_to_disk(str(folder / "classes"))
    rows.to_parquet(str(folder / "classes.parquet"))
    streamed = load_dataset("parquet", data_files=str(folder / "classes.parquet"), split="train", streaming=True)
    held = [load_held(each, name="data") for each in (rows, streamed)]
    files = [load_records(folder / name) for name in ("classes", "classes.parquet")]
    return [records[0].turns[1].text for records in (*held, *files)]


def main(asked: str, answered: str) -> None:
    """Read each form, and train on one."""
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    data, folder = Path(request["data"]), Path(request["folder"])
    rows = json.loads(data.read_text(encoding="utf-8"))
    for row in rows:
        row["image"] = str(data.parent / row["image"]) if "image" in row else None
    forms = make_forms(rows, folder)
    read = {name: contents(load_held(form, name="data")) for name, form in forms.items()}
    run = minicpmv.train(request["model"], forms["decoded"], output=folder / "run", **request["settings"])
    losses = [entry["loss"] for entry in run.metrics if "loss" in entry]
    try:
        load_held(DatasetDict({"train": forms["named"], "test": forms["named"]}), name="data")
    except UsageError as error:
        classes = read_classes(folder)
        np.savez(answered, forms=json.dumps(read), losses=losses, splits=str(error), classes=classes)


if __name__ == "__main__":
    main(*sys.argv[1:])
