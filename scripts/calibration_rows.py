"""Writes records as a model reads them in training, in transformers' own form: pictures, questions and answers.

    python scripts/calibration_rows.py MODEL DATA.json ROWS.pt [NUMBER]

Runs where this package is installed. ROWS.pt holds a list of the keyword arguments of the model's forward pass, one
for each of NUMBER records (256 by default) spread evenly over the data, for ``scripts/quantize_4_bits.py``, which runs
in an environment of its own. 4.6 and later.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.inference.loading import load_processor

MAX_LENGTH = 2048

# Shape letters in this file
#   P patches of all slices    p pixels of a patch's side


def main(model: str, data: str, output: str, number: str = "256") -> None:
    """Write the rows."""
    processor = load_processor(model)
    records = load_records(data, version=processor.version)
    step = max(1, len(records) // int(number))
    dataset = ConversationDataset(records, processor, max_length=MAX_LENGTH)
    rows: list[dict[str, Any]] = []
    for index in range(0, len(records), step)[: int(number)]:
        item = dataset[index]
        row = {"input_ids": item["input_ids"][None]}
        if len(item["tgt_sizes"]):
            patches = processor.image_processor.normalise(item["pixel_values"].numpy())
            side = processor.image_processor.patch_size
            strip = torch.from_numpy(patches).unflatten(1, (3, side, side)).permute(1, 2, 0, 3).flatten(2)
            row |= {"pixel_values": strip[None], "target_sizes": item["tgt_sizes"]}  # (1, 3, p, P * p)
        rows.append(row)
    torch.save(rows, output)
    print(f"Wrote {output}: {len(rows)} rows, {sum(row['input_ids'].numel() for row in rows):,} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
