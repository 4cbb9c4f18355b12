"""What fits on which card: the table of ``docs/memory.md``, as predicted for the released sizes.

    python -m benchmarks cards

Nothing is measured here, so any machine gives the same. Rows are the longest that 2,048 tokens allow: one of text, all
of it trained, and one of as many slices as fit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from minicpmv.devices.inspection import inspect_machine
from minicpmv.estimation.devices import find_device
from minicpmv.estimation.subject import read_subject
from minicpmv.estimation.workload import plan_workload
from minicpmv.models.configuration import read_model_config
from minicpmv.training.distributed.engine import quieten
from minicpmv.training.start.footprint.memory import Memory, estimate_memory
from tests.released_sizes import NATIVE, RELEASED

__all__ = ["RECIPES", "Recipe", "estimate", "measure", "table_line"]

_GIB = 2**30
_USABLE = 0.98
"""Of a card's memory, as ``minicpmv estimate`` has it."""
_RECOMPUTED = "--activation_checkpointing true"
_LORA = f"--use_lora true {_RECOMPUTED}"
_ALONE = f"{_LORA} --lora_preset adapters_only"
_PACKED = f"--q_lora true {_RECOMPUTED} --lora_preset adapters_only"
_RELEASED = f"{_RECOMPUTED} --release_gradients true"


class Recipe(NamedTuple):
    """One line of the table."""

    release: str
    trained: str
    card: str
    """Gigabytes of the smallest card of the table that it fits on."""
    flags: str


RECIPES = (
    Recipe("2.5", "QLoRA, adapters alone", "16", _PACKED),
    Recipe("2.5", "LoRA, adapters alone", "24", _ALONE),
    Recipe("2.6", "QLoRA, adapters alone", "16", _PACKED),
    Recipe("2.6", "LoRA, adapters alone", "24", _ALONE),
    Recipe("4.5", "QLoRA, adapters alone", "16", _PACKED),
    Recipe("4.5", "LoRA, adapters alone", "24", _ALONE),
    Recipe("4.6", "LoRA", "16", f"{_LORA} --gradient_accumulation_steps 1"),
    Recipe("4.6", "QLoRA, adapters alone", "16", _PACKED),
    Recipe("4.6", "full", "24", _RELEASED),
    Recipe("4.7-1B", "full, 8-bit states", "24", f"{_RELEASED} --optim adamw_bnb_8bit"),
    Recipe("2.6", "QLoRA, tower frozen", "24", f"--q_lora true {_RECOMPUTED} --tune_vision false"),
    Recipe("2.5", "full, 8-bit states", "80", f"{_RELEASED} --optim adamw_bnb_8bit"),
    Recipe("4.5", "full, 8-bit states", "80", f"{_RELEASED} --optim adamw_bnb_8bit"),
    Recipe("4.5", "full, hardly any state", "80", f"{_RELEASED} --optim adafactor"),
)


def measure(*, repetitions: int) -> dict[str, Any]:
    """Predict every line, and print it; there is nothing to repeat."""
    del repetitions
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        memory = estimate(recipe)
        print(table_line(recipe, memory), flush=True)
        found[f"{recipe.release} {recipe.trained}"] = asdict(memory) | {"total": memory.total}
    return found


def estimate(recipe: Recipe) -> Memory:
    """Predict the memory of a recipe on its card."""
    quieten()
    here = inspect_machine()
    card = find_device(f"{recipe.card}GB").as_accelerator()
    machine = replace(here, torch=replace(here.torch, architectures=()), accelerators=(card,))
    words = recipe.flags.split()
    # Whether or not the optimizer's package is installed here.
    place = words.index("--optim") if "--optim" in words else len(words)
    optimizer = [*words[place + 1 : place + 2], "adamw_torch_fused"][0]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_sizes(recipe.release)), encoding="utf-8")
        needed = ["--model_name_or_path", folder, "--data_path", "none", "--output_dir", "none", "--bf16", "true"]
        subject = read_subject(
            [*needed, *words[:place], *words[place + 2 :]], machine=machine, num_devices=1, optimizer=optimizer
        )
        workload = plan_workload(subject, read_model_config(subject.base.path), has_data=False)
        return estimate_memory(subject, workload.heaviest, patches=workload.patches, seen={})


def _sizes(release: str) -> dict[str, Any]:
    """State the sizes of a release; 4.7-1B is 4.6 with an output head of its own, by its 1.55 billion weights."""
    if release != "4.7-1B":
        return {"model_type": "minicpmv"} | (RELEASED | NATIVE)[release]
    sizes = NATIVE["4.6"]
    tower = sizes["vision_config"] | {"model_type": "minicpmv4_7_vision"}
    text = sizes["text_config"] | {"tie_word_embeddings": False}
    own = {"model_type": "minicpmv4_7", "tie_word_embeddings": False, "vision_config": tower, "text_config": text}
    return sizes | own


def table_line(recipe: Recipe, memory: Memory) -> str:
    """Write a line of the page's table.

    Raises:
        ValueError: It does not fit on the card.
    """
    if memory.total > int(recipe.card) * _GIB * _USABLE:
        raise ValueError(f"{recipe}: {memory.total / _GIB:.1f} GiB do not fit")
    cells = [recipe.release, recipe.trained, f"{recipe.card} GB", *_figures(memory), f"`{recipe.flags}`"]
    return f"| {' | '.join(cells)} |"


def _figures(memory: Memory) -> Iterator[str]:
    parts = (memory.weights + memory.copies, memory.gradients, memory.optimizer, memory.activations + memory.logits)
    for size in (*parts, memory.communication + memory.system, memory.total):
        yield f"{size / _GIB:.1f}"
