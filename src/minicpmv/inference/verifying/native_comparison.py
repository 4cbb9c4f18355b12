"""Compares logits and answers with those of transformers' own class, for the releases that transformers has.

Its class computes in a process of its own, with limits (``native_child``); the inputs are this package's, in the layout
of transformers' processor. The code that older releases bring with their weights is never run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from minicpmv.files.posix import HAS_LIMITS, refuse_windows
from minicpmv.files.scratch import scratch_folder
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.inference.verifying.release_check import Finding
from minicpmv.models.answering.answers import decode_answer, end_token_ids, generate_answers
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.table import Version

__all__ = ["compare_computed"]

_MOST_TOKENS = 12
"""Of an answer."""
_TIMEOUT_SECONDS = 3600.0
_SPACE = 24 * 2**30
"""Bytes of address space besides the weights: libraries map far more than they use."""
_COPIES = 3
"""Of the weights: the file mapped, the tensors, and room to convert them."""
# Chosen, not measured on real weights: on the tests' 4.6, whose logits reach 4, float32 differs by 2e-6.
_LEAST = {"float32": 1e-3, "bfloat16": 5e-2}
"""Share of the largest logit by which logits must differ to be called different."""


def compare_computed(folder: Path, version: Version, *, dtype: str) -> Iterator[Finding]:
    """Compare what the release's class and this package compute of the same prompts, on the CPU.

    Args:
        folder: The model's directory, with its weights.
        version: Its release.
        dtype: ``float32`` or ``bfloat16``, for both.
    """
    if version.network.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        yield Finding(
            "logits",
            f"not compared: transformers has no class for {version.model}, and the code that was released with it "
            "is not run here",
        )
        return
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not size:
        yield Finding("logits", "not compared: no weights are there")
        return
    processor = MiniCPMVProcessor.from_pretrained(folder)
    prompts = {name: processor.apply_chat_template(messages) for name, messages in _prompts().items()}
    end_ids = end_token_ids(processor.tokenizer, version)
    with scratch_folder("verify") as place:
        theirs, fault = _compute_theirs(folder, processor, prompts, end_ids, place, dtype=dtype, size=size)
    if fault:
        yield Finding("logits", "not compared: transformers' class gave none", [fault])
        return
    loaded = load_model(str(folder), device="cpu", dtype=getattr(torch, dtype))
    for number, (name, inputs) in enumerate(prompts.items()):
        yield _compare(loaded, inputs, theirs[f"logits.{number}"], theirs[f"answer.{number}"].tolist(), name, dtype)


def _prompts() -> dict[str, list[dict[str, Any]]]:
    """Make conversations: text alone, and a picture that is cut into tiles."""
    columns = torch.arange(620)[None, :].expand(340, -1)
    rows = torch.arange(340)[:, None].expand(-1, 620)
    waves = torch.stack([columns * 255 // 619, rows * 255 // 339, (columns // 31 + rows // 17) % 2 * 200], dim=-1)
    picture = Image.fromarray(waves.to(torch.uint8).numpy())
    asked = {"type": "text", "text": "What colours are there?"}
    return {
        "text": [{"role": "user", "content": "Name three colours."}],
        "picture": [{"role": "user", "content": [{"type": "image", "image": picture}, asked]}],
    }


def _compute_theirs(
    folder: Path,
    processor: Any,
    prompts: dict[str, Any],
    end_ids: list[int],
    place: Path,
    *,
    dtype: str,
    size: int,
) -> tuple[dict[str, Tensor], str]:
    """Return what transformers' class computes, or why it does not."""
    cases: list[str] = []
    for number, inputs in enumerate(prompts.values()):
        cases.append(str(place / f"case{number}.safetensors"))
        save_file(_native_inputs(inputs, processor, getattr(torch, dtype)), cases[-1])
    output = place / "output.safetensors"
    given = {
        "folder": str(folder.absolute()),
        "dtype": dtype,
        "most_bytes": _SPACE + _COPIES * size * (2 if dtype == "float32" else 1),
        "most_tokens": _MOST_TOKENS,
        "end_ids": end_ids,
        "cases": cases,
        "output": str(output),
    }
    if not HAS_LIMITS:
        refuse_windows("--logits, which computes in a process with limits")
    program = Path(__file__).with_name("native_child.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"it took more than {_TIMEOUT_SECONDS:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {}, f"its process ended with {done.returncode}: {last:.300}"
    return load_file(output), ""


def _native_inputs(inputs: Any, processor: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return our inputs as transformers' own processor lays them out."""
    ids = inputs["input_ids"]
    native = {"input_ids": ids, "attention_mask": inputs["attention_mask"]}
    if "image_mask" in inputs:
        # [P, 588], a row for each patch -> [1, 3, 14, 14 * P], the patches side by side
        patches = inputs["pixel_values"].reshape(-1, 3, 14, 14).permute(1, 2, 0, 3)
        native["pixel_values"] = patches.reshape(1, 3, 14, -1).to(dtype).contiguous()
        native["target_sizes"] = inputs["tgt_sizes"]
    if processor.version.reading.positions is not None:
        mask = inputs["image_mask"] if "image_mask" in inputs else torch.zeros_like(ids)
        native["mm_token_type_ids"] = mask.int()
    return {name: tensor.contiguous() for name, tensor in native.items()}


def _compare(
    loaded: LoadedModel, inputs: Any, theirs_V: Tensor, their_answer: list[int], name: str, dtype: str
) -> Finding:
    model: Any = loaded.model
    with torch.no_grad():
        ours_V = model(**inputs).logits[0, -1].float()
    ends = loaded.end_token_ids()
    (answer,) = generate_answers(model, inputs, options={"max_new_tokens": _MOST_TOKENS}, end_ids=ends)
    texts = [decode_answer(loaded.processor.tokenizer, row, ends) for row in (answer, their_answer)]
    most, scale = float((ours_V - theirs_V).abs().max()), float(theirs_V.abs().max())
    said = f"in {dtype} logits differ by {most:.1e} at most, of {scale:.3g}"
    faults: list[str] = []
    if not most <= _LEAST[dtype] * scale:  # NaN as well
        faults.append(f"the logits, by more than {_LEAST[dtype]:g} of the largest")
    if answer == their_answer:
        said += f"; the same {len(answer)} tokens of an answer: {texts[0]!r:.200}"
    else:
        faults.append(f"the answers: {texts[0]!r:.200} here, {texts[1]!r:.200} by transformers' class")
    return Finding(f"logits, {name}", said, faults)
