"""Predicted against measured: what `minicpmv estimate` says of a training step, and what one takes on this CPU.

    python benchmarks/estimate.py

Each case is a process of its own. It builds a random model as training would load it, runs two optimizer steps on one
row, and reports two measurements: the bytes that autograd keeps at the end of the forward pass (counted tensor by
tensor, copies of weights included), and the highest resident memory during the steps beyond that before the model was
built. Weights and wall times play no part, so any machine gives nearly the same figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minicpmv.devices.inspection import inspect_machine
from minicpmv.estimation.subject import read_subject
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts
from minicpmv.training.learning.recomputation import RecomputedLayers, asked_of_parts
from minicpmv.training.start.footprint.memory import estimate_memory, make_tracer
from minicpmv.training.start.footprint.stages import Row, recompute_asked
from minicpmv.training.start.footprint.subject import Subject, build_model
from minicpmv.training.start.footprint.timeline import kept_after_forward

PATCHES = (32, 32)
RECOMPUTE = "--activation_checkpointing"


class Case(NamedTuple):
    """One line of the table."""

    model: str
    row: Row
    flags: tuple[str, ...]


def sizes(width: int, layers: int, vision: int, vision_layers: int) -> dict[str, Any]:
    """State a MiniCPM-V-2.6 in another size."""
    tower = {"hidden_size": vision, "intermediate_size": vision * 4, "num_attention_heads": vision // 64}
    tower |= {"num_hidden_layers": vision_layers, "image_size": 980, "patch_size": 14, "model_type": "siglip"}
    language = {"hidden_size": width, "intermediate_size": width * 4, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 256, "vocab_size": 32000}
    more = {"model_type": "minicpmv", "version": 2.6, "query_num": 64, "drop_vision_last_layer": False}
    return language | heads | more | {"vision_config": tower, "torch_dtype": "bfloat16", "tie_word_embeddings": False}


MODELS = {"62 M": sizes(512, 6, 256, 4), "215 M": sizes(1024, 8, 512, 6)}
LORA, BF16 = ("--use_lora", "true"), ("--bf16", "true")
CASES = [
    Case("62 M", Row(512, 100, 4), ()),
    Case("62 M", Row(2048, 400, 16), ()),
    Case("62 M", Row(2048, 2000, 0), ()),
    Case("62 M", Row(2048, 400, 16), BF16),
    Case("62 M", Row(2048, 400, 16), (*BF16, RECOMPUTE, "true")),
    Case("62 M", Row(2048, 400, 16), (RECOMPUTE, "true")),
    Case("62 M", Row(2048, 400, 16), (*LORA, *BF16)),
    Case("62 M", Row(2048, 400, 16), (*LORA, *BF16, "--tune_vision", "false")),
    Case("62 M", Row(2048, 400, 16), (*LORA, *BF16, RECOMPUTE, "true")),
    Case("215 M", Row(1024, 200, 8), BF16),
    Case("215 M", Row(1024, 200, 8), (*BF16, RECOMPUTE, "true")),
    Case("215 M", Row(1024, 200, 8), (*BF16, "--tune_vision", "false", "--gradient_accumulation_steps", "2")),
    Case("215 M", Row(1024, 200, 8), (*LORA, *BF16)),
    Case("215 M", Row(1024, 200, 8), (*LORA, *BF16, "--tune_embeddings", "false", "--tune_vision", "false")),
]


def read(case: Case, folder: str) -> Subject:
    """Settle a case's flags."""
    (Path(folder) / "config.json").write_text(json.dumps(MODELS[case.model]), encoding="utf-8")
    common = ["--model_name_or_path", folder, "--data_path", "none", "--output_dir", "none", "--use_cpu", "true"]
    common += [RECOMPUTE, "false", "--gradient_accumulation_steps", "1"]
    return read_subject([*common, *case.flags], machine=replace(inspect_machine(), accelerators=()), num_devices=1)


def predict(subject: Subject, row: Row) -> dict[str, int]:
    """Estimate the same."""
    total = estimate_memory(subject, [row], patches=PATCHES, seen={}).total
    return {"kept": predict_kept(subject, row, PATCHES), "total": total}


def predict_kept(subject: Subject, row: Row, patches: tuple[int, int]) -> int:
    """Estimate what autograd keeps."""
    tracer = make_tracer(subject, build_model(subject), patches=patches, autocast=subject.half, seen={})
    return kept_after_forward(recompute_asked(tracer.stages(row), asked_of_parts(subject.run)))


def build(subject: Subject) -> Any:
    """Make the model with random weights, as training has it after loading."""
    model: Any = MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(subject.base.path))
    model = model.to(subject.base_dtype)
    if subject.run.use_lora:
        model = add_lora(model, subject.run, keep_dtype=False)
    else:
        choose_trained_parts(model, subject.run)
    if subject.run.use_lora:
        model.enable_input_require_grads()
    if subject.settings[RECOMPUTE.removeprefix("--")]:
        # transformers 5.20, the last for Python 3.10, has the old name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        RecomputedLayers(asked=asked_of_parts(subject.run)).on_train_begin(None, None, None, model=model)  # pyright: ignore[reportArgumentType]
    return model.train()


def make_batch(row: Row, config: Any, patches: tuple[int, int] = PATCHES) -> dict[str, Tensor]:
    """Make one sample of that many tokens, trained ones and slices."""
    batch: dict[str, Tensor] = {
        "input_ids": torch.randint(config.vocab_size, (1, row.tokens)),
        "position_ids": torch.arange(row.tokens)[None],
        "labels": torch.full((1, row.tokens), -100),
    }
    batch["labels"][:, row.tokens - row.labelled_tokens :] = 1
    if row.slices:
        mask = torch.arange(row.tokens)[None] < row.slices * config.query_num
        shape = (row.slices * patches[0] * patches[1], 3 * config.vision_config.patch_size**2)
        pixels = {"pixel_values": torch.randint(256, shape, dtype=torch.uint8), "pixel_table": torch.rand(3, 256)}
        batch |= pixels | {"image_mask": mask, "tgt_sizes": torch.tensor([patches] * row.slices)}
    return batch


def measure(subject: Subject, row: Row) -> dict[str, int]:
    """Train two steps."""
    torch.manual_seed(0)
    torch.nn.Linear(64, 64)(torch.rand(64, 64)).sum().backward()  # what torch itself sets up at the first use
    before = memory("VmRSS")
    model = build(subject)
    num_micro = int(subject.settings.get("gradient_accumulation_steps", 1))
    batches = [make_batch(row, model.config) for _ in range(num_micro + 1)]  # as many as accelerate holds
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak of building the model
    kept = 0
    for step in range(2):
        for micro in range(num_micro):
            if step == 0 and micro == 0:
                kept, loss = run_forward(model, batches[0], subject.half)
            else:
                _, loss = run_forward(model, batches[micro], subject.half, is_counted=False)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"kept": kept, "total": memory("VmHWM") - before}


def run_forward(
    model: Any, batch: dict[str, Tensor], half: torch.dtype | None, *, is_counted: bool = True
) -> tuple[int, Tensor]:
    """Return the bytes that autograd keeps, without weights and the batch itself, and the loss."""
    there = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *batch.values())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    counting = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x) if is_counted else nullcontext()
    with counting, torch.autocast("cpu", dtype=half) if half else nullcontext():
        loss = model(**batch).loss
    sizes = {pointer: each.untyped_storage().nbytes() for pointer, each in kept.items()}
    return sum(size for pointer, size in sizes.items() if pointer not in there), loss


def memory(field: str) -> int:
    """Bytes of this process, by a field of the kernel's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def run_case(number: int) -> None:
    """Print one case as JSON: its own process's part."""
    case = CASES[number]
    with tempfile.TemporaryDirectory() as folder:
        subject = read(case, folder)
        measured = measure(subject, case.row)
        print(json.dumps([predict(subject, case.row), measured]))


def main(arguments: Sequence[str]) -> None:
    """Run all cases, or the one whose number is given."""
    warnings.simplefilter("ignore")
    if arguments:
        run_case(int(arguments[0]))
        return
    print(
        "model   tokens trained slices   kept MiB: predicted measured        total MiB: predicted measured        flags"
    )
    for number, case in enumerate(CASES):
        command = [sys.executable, __file__, str(number)]
        # Or freed tensors of up to 32 MB stay with the process, in the C library's heap.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        predicted, measured = json.loads(ran.stdout.splitlines()[-1])
        figures = ""
        for name in ("kept", "total"):
            ratio = predicted[name] / measured[name] - 1
            figures += f"{predicted[name] / 2**20:12,.0f} {measured[name] / 2**20:8,.0f} {ratio:+7.1%}     "
        print(f"{case.model:>6} {case.row.tokens:7} {case.row.labelled_tokens:7} {case.row.slices:6}   {figures}  "
              f"{' '.join(case.flags) or 'full, fp32'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
