"""What everyone trains: one file of weights for each kind of model, and the same records in each peer's own format.

Records have 1, 4, 7 and 10 slices in turn and texts of one length, so that each four of them are one optimizer step of
about 2,700 tokens, whichever way they are batched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks.models import FIXTURES, make_model
from benchmarks.records import make_records

__all__ = ["KINDS", "RECORDS_OF_A_STEP", "ROW", "SLICES", "STEPS", "Kind", "Places", "make_inputs", "write_records"]

SLICES = (1, 4, 7, 10)
RECORDS_OF_A_STEP = len(SLICES)
STEPS = 3
"""Of one training. The first warms up; the others see every record once."""
ROW = 2780
"""Tokens of a packed row: room for the records of one step, and not for one more."""
_RECORDS = 2 * RECORDS_OF_A_STEP
_WORDS = 95
"""Of question and answer, about 285 tokens; two fifths are the answer."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A layout of released checkpoints."""

    make: Callable[[Path, bool], Path]
    """Writes a model of random weights, large enough to measure or, if asked, small."""
    lora_targets: str
    """Regular expression over full names of modules: attention of the language model."""
    in_full: tuple[str, ...]
    """Modules that are trained in full beside LoRA: vision tower, resampler, and embeddings that are not tied."""
    swift_type: str
    """ms-swift's name of the model."""
    needs_released_code: bool
    """Whether peers run it by the ``.py`` files of its release only."""


@dataclass(frozen=True)
class Places:
    """Where the inputs of one kind are."""

    model: Path
    ours: Path
    swift: Path
    factory: Path
    """Directory with LLaMA-Factory's ``dataset_info.json``."""
    trl: Path
    """Directory that ``datasets`` reads as a folder of images."""


# As with the released sizes, about two fifths of a step go through the tower and a fifteenth through the head.
_LANGUAGE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1792,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
_VISION: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 1}
_LINEAR_ATTENTION = {
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 8,
}
_SMALL_LANGUAGE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
_SMALL_VISION = {"hidden_size": 64, "intermediate_size": 64}


def _make_2_6(directory: Path, small: bool) -> Path:
    language = {**_LANGUAGE, **({**_SMALL_LANGUAGE, "num_hidden_layers": 1} if small else {})}
    return make_model(directory, num_queries=64, vision={**_VISION, **(_SMALL_VISION if small else {})}, **language)


def _make_4_6(directory: Path, small: bool) -> Path:
    """Write a model of transformers' own class, with three layers of linear attention and one of full."""
    directory.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(FIXTURES / "v4_6" / name, directory / name)
    preprocessing = json.loads((FIXTURES / "v4_6" / "preprocessor_config.json").read_text(encoding="utf-8"))
    preprocessing |= {"max_slice_nums": 9, "scale_resolution": 448}
    _write(directory / "preprocessor_config.json", preprocessing)
    del preprocessing["image_processor_type"]
    _write(directory / "video_preprocessor_config.json", preprocessing | {"video_processor_type": _FILMS})
    config = json.loads((FIXTURES / "v4_6" / "config.json").read_text(encoding="utf-8"))
    del config["made_up_field"]
    config["image_size"] = 448
    config["text_config"] |= {**_LANGUAGE, **_LINEAR_ATTENTION, **(_SMALL_LANGUAGE if small else {}), "head_dim": 64}
    config["text_config"]["rope_parameters"]["mrope_section"] = [6, 5, 5]  # half of a head turns, in pairs
    config["vision_config"] |= {**_VISION, "num_hidden_layers": 3, **(_SMALL_VISION if small else {})}
    config["vision_config"]["num_attention_heads"] = 4
    _write(directory / "config.json", config)
    torch.manual_seed(0)
    settings = AutoConfig.from_pretrained(directory)
    AutoModelForImageTextToText.from_config(settings, dtype=torch.bfloat16).save_pretrained(directory)
    _write(directory / "config.json", config)
    return directory


_FILMS = "MiniCPMV4_6VideoProcessor"


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


KINDS = {
    "2.6": Kind(
        make=_make_2_6,
        lora_targets=r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        in_full=("vpm", "resampler", "embed_tokens"),
        swift_type="minicpmv2_6",
        needs_released_code=True,
    ),
    "4.6": Kind(
        make=_make_4_6,
        lora_targets=r"model\.language_model\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|"
        r"linear_attn\.(in_proj_qkv|in_proj_z|out_proj))",
        in_full=("vision_tower", "merger"),
        swift_type="minicpmv4_6",
        needs_released_code=False,
    ),
}


def make_inputs(folder: Path, kind: str, *, small: bool = False) -> Places:
    """Write the model and the records of one kind, and return where they are.

    Args:
        folder: Where to.
        kind: Of model.
        small: Whether to write a model to try the commands with.
    """
    return write_records(folder, KINDS[kind].make(folder / "model", small))


def write_records(folder: Path, model: Path) -> Places:
    """Write the records beside a model, once in each format."""
    data = Path(make_records(folder / "data", _RECORDS, slices=SLICES, words=(_WORDS, _WORDS)))
    records = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    messages = [
        {"messages": record["conversations"], "images": [str(data.parent / record["image"])]} for record in records
    ]
    swift = folder / "swift.jsonl"  # which writes the line break behind an image itself
    lines = [json.dumps(each).replace(r"<image>\n", "<image>") + "\n" for each in messages]
    swift.write_text("".join(lines), encoding="utf-8")

    factory = folder / "llama_factory"
    factory.mkdir()
    (factory / "records.json").write_text(json.dumps(messages), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {"file_name": "records.json", "formatting": "sharegpt", "tags": tags}
    about["columns"] = {"messages": "messages", "images": "images"}
    (factory / "dataset_info.json").write_text(json.dumps({"records": about}), encoding="utf-8")

    trl = folder / "trl"
    trl.mkdir()
    with (trl / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            shutil.copyfile(data.parent / record["image"], trl / record["image"])
            question, answer = record["conversations"]
            asked = {**question, "content": question["content"].removeprefix("<image>\n")}
            line = {"images_file_names": [record["image"]], "prompt": [asked], "completion": [answer]}
            file.write(json.dumps(line) + "\n")
    return Places(model, data, swift, factory, trl)
