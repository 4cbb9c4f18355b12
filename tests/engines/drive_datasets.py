"""Runs in TRL's environment, which holds ``datasets``: reads that package's data sets of our records, and trains.

    python drive_datasets.py REQUEST.json RESULT.npz

REQUEST: ``model`` (a directory), ``data`` (a file of records), ``folder`` (for outputs), ``settings`` (of
``minicpmv.train``). RESULT: ``forms``, what is read of each form of data set, by its name, as JSON; ``losses`` of a
training on the one whose pictures are decoded; ``splits``, the error that two splits at once are refused with.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image, List, load_dataset, load_from_disk

import minicpmv
from minicpmv.data.sources.in_memory import load_held
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
        np.savez(answered, forms=json.dumps(read), losses=losses, splits=str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
