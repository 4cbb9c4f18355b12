"""Computes logits and answers by transformers' own class, as a program of its own: ``python -I native_child.py``.

It reads a JSON object from its input: ``folder``, ``dtype``, ``most_bytes`` of address space, ``most_tokens`` of an
answer, ``end_ids``, ``cases`` (safetensors files of inputs) and ``output``, the safetensors file to write, with
``logits.N`` [V] float32 at the end of prompt N and ``answer.N`` [T] int64. Nothing of this package can be imported, no
code of the directory is run, nothing is downloaded, and no GPU is seen.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText


def main() -> None:
    """Compute every case."""
    given: dict[str, Any] = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (given["most_bytes"], given["most_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.modules["minicpmv"] = None  # pyright: ignore[reportArgumentType]  importing it is an error from here on
    model: Any = AutoModelForImageTextToText.from_pretrained(
        given["folder"], dtype=getattr(torch, given["dtype"]), local_files_only=True, trust_remote_code=False
    )
    assert type(model).__module__.startswith("transformers.models."), type(model)
    model.eval()
    made: dict[str, torch.Tensor] = {}
    for number, file in enumerate(given["cases"]):
        inputs = load_file(file)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
            answer = model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                max_new_tokens=given["most_tokens"],
                eos_token_id=given["end_ids"],
                pad_token_id=given["end_ids"][0],
            )
        made |= {f"logits.{number}": logits.float().contiguous()}
        made |= {f"answer.{number}": answer[0, inputs["input_ids"].shape[1] :].contiguous()}
    save_file(made, given["output"])


if __name__ == "__main__":
    main()
