"""Runs in TRL's own environment: three steps of its DPOTrainer or GRPOTrainer with our model and processor.

    python drive_trl.py REQUEST.json RESULT.npz

REQUEST: ``trainer`` (dpo or grpo), ``model`` (a directory), ``pictures`` (paths), ``lora``. RESULT: ``losses`` and what
else the trainer logs, by its names; ``moved``, whether weights changed.

REQUEST with ``reference`` (a directory) and ``pairs`` (a file of our records) instead of pictures and ``lora``: no
step, but the loss of all pairs as one batch. RESULT: what DPOTrainer logs of it, and gradients, by ``gradient.NAME``.

It is an example as well. Both trainers call our model as it is; what they ask of a processor is made here:

- TRL's collator and GRPO's loss call ``processor(images=, text=)`` with text in which places of pictures are guessed;
  our processor takes messages. For DPO the collator below replaces TRL's.
- GRPO takes tensors of a closed list of names to its loss, one row of ``pixel_values`` for each picture. So a row is a
  number here, and the patches that it stands for are looked up in ``Pictures`` where the model is called.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402  only where TRL is
from peft import LoraConfig  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import BatchFeature  # noqa: E402
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer  # noqa: E402

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration  # noqa: E402
from minicpmv.processing.processor import MiniCPMVProcessor  # noqa: E402

COLOURS = ("red", "green", "blue", "grey")


def collate_pairs(processor: MiniCPMVProcessor, records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch as TRL's DPOTrainer expects it: the chosen answers, then the rejected ones, padded on the right."""
    conversations = [
        [{**turn, "content": _with_pictures(turn["content"], record["images"])} for turn in record["prompt"]]
        + record[answer]
        for answer in ("chosen", "rejected")
        for record in records
    ]
    encoded = [
        processor.apply_chat_template([conversation], return_tensors=None, add_generation_prompt=False)
        for conversation in conversations
    ]
    prompts = [
        len(processor.apply_chat_template([conversation[:-1]], return_tensors=None)["input_ids"][0])
        for conversation in conversations
    ]
    rows: dict[str, list[torch.Tensor]] = {
        "input_ids": [],
        "attention_mask": [],
        "image_mask": [],
        "completion_mask": [],
    }
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, prompt in zip(encoded, prompts, strict=True):
        ids = row["input_ids"][0]
        # An answer ends with its end token. The template writes a line break behind it, which no model has to say.
        length = len(ids) - ids[::-1].index(end)
        for name in ("input_ids", "attention_mask", "image_mask"):
            rows[name].append(torch.tensor(row[name][0][:length]))
        rows["completion_mask"].append((torch.arange(length) >= prompt).long())
    batch = {name: torch.nn.utils.rnn.pad_sequence(each, batch_first=True) for name, each in rows.items()}
    batch["pixel_values"] = torch.cat([torch.tensor(row["pixel_values"]) for row in encoded])
    batch["tgt_sizes"] = torch.cat([torch.tensor(row["tgt_sizes"]) for row in encoded])
    return batch


def _with_pictures(content: Any, images: list[Any]) -> list[dict[str, Any]]:
    return [*({"type": "image", "image": image} for image in images), {"type": "text", "text": content}]


class Pictures:
    """Holds the patches of pictures by number."""

    def __init__(self) -> None:
        self._patches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._numbers: dict[bytes, int] = {}

    def number(self, image: Any, processor: MiniCPMVProcessor) -> int:
        """Return a picture's number, cutting it into slices when it is new."""
        image = image.convert("RGB")
        name = image.tobytes() + repr(image.size).encode()
        if name not in self._numbers:
            seen = processor.image_processor(image, return_tensors="pt")
            self._numbers[name] = len(self._patches)
            self._patches.append((seen["pixel_values"], seen["tgt_sizes"]))
        return self._numbers[name]

    def patches(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the model's arguments for pictures."""
        chosen = [self._patches[number] for number in numbers.flatten().long().tolist()]
        return {
            "pixel_values": torch.cat([each[0] for each in chosen]),
            "tgt_sizes": torch.cat([each[1] for each in chosen]),
        }


PICTURES = Pictures()


class ProcessorOfNumbers(MiniCPMVProcessor):
    """Gives a number for each picture instead of its patches."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """See ``MiniCPMVProcessor``; ``pixel_values`` are numbers, one row for each picture."""
        inputs = super().apply_chat_template(conversation, **options)
        if not isinstance(inputs, BatchFeature) or "pixel_values" not in inputs:
            return inputs
        parts = [part for messages in conversation for turn in messages for part in turn["content"] if "image" in part]
        numbers = [[float(PICTURES.number(part["image"], self))] for part in parts]
        return BatchFeature(
            {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"pixel_values": numbers}
        )

    def __call__(self, *, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Return what GRPO's loss takes from here: the pictures. The ids it has already."""
        numbers = [[float(PICTURES.number(image, self))] for of_prompt in images for image in of_prompt]
        return BatchFeature({"pixel_values": torch.tensor(numbers)})


class ModelOfNumbers(MiniCPMVForConditionalGeneration):
    """Looks pictures up by number."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **given: Any) -> Any:
        """See ``MiniCPMVForConditionalGeneration``."""
        if pixel_values is not None and pixel_values.shape[-1] == 1:
            given |= PICTURES.patches(pixel_values) | {"image_mask": input_ids == self.config.image_token_id}
        elif pixel_values is not None:
            given["pixel_values"] = pixel_values
        return super().forward(input_ids=input_ids, **given)


# `generate` asks the signature which arguments there are.
setattr(ModelOfNumbers.forward, "__signature__", inspect.signature(MiniCPMVForConditionalGeneration.forward))  # noqa: B010


def first_letters(completions: Any, answer: list[str], **others: Any) -> list[float]:
    """Reward: how many letters of the expected answer the completion has."""
    texts = [completion[0]["content"] for completion in completions]
    return [len(set(text) & set(known)) / len(set(known)) for text, known in zip(texts, answer, strict=True)]


def read_pairs(file: Path) -> dict[str, list[Any]]:
    """Return records of ours as TRL's columns; each has one picture, in front of its one question."""
    found: dict[str, list[Any]] = {"prompt": [], "images": [], "chosen": [], "rejected": []}
    for record in json.loads(file.read_text(encoding="utf-8")):
        question, chosen = record["conversations"]
        found["prompt"].append([{"role": "user", "content": question["content"].removeprefix("<image>\n")}])
        found["images"].append([Image.open(file.parent / record["image"]).convert("RGB")])
        found["chosen"].append([chosen])
        found["rejected"].append([{"role": "assistant", "content": record["rejected"]}])
    return found


def compute_batch(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Compute the loss of one batch with a reference of its own, and its gradients."""
    model, reference = (
        MiniCPMVForConditionalGeneration.from_pretrained(request[name], dtype=torch.float32)
        for name in ("model", "reference")
    )
    processor = MiniCPMVProcessor.from_pretrained(request["model"])
    records = Dataset.from_dict(read_pairs(Path(request["pairs"])))
    settings: dict[str, Any] = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    trainer: Any = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(str(folder), beta=0.1, max_length=None, remove_unused_columns=False, **settings),
        train_dataset=records,
        processing_class=processor,
        data_collator=lambda records: collate_pairs(processor, records),
    )
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, collate_pairs(processor, list(records)))
    loss.backward()
    found = {name.replace("/", "."): np.array(values[-1]) for name, values in trainer._metrics["train"].items()}
    gradients = {
        f"gradient.{name}": weight.grad.numpy()
        for name, weight in trainer.model.named_parameters()
        if weight.grad is not None
    }
    return found | gradients | {"loss": np.array(loss.item())}


def main(request_file: str, result_file: str) -> None:
    """Train, and write down what was logged; or compute one batch."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    if "pairs" in request:
        np.savez(result_file, **compute_batch(request, Path(result_file).parent / "out"))
        return
    lora = LoraConfig(r=4, target_modules=r"llm\..*self_attn\.(q_proj|v_proj)") if request["lora"] else None
    common: dict[str, Any] = {
        "output_dir": str(Path(result_file).parent / "out"),
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    images = [[Image.open(path).convert("RGB")] for path in request["pictures"]]
    prompts = [[{"role": "user", "content": "Which colour?"}] for _ in images]
    answers = [COLOURS[number % len(COLOURS)] for number in range(len(images))]
    if request["trainer"] == "dpo":
        model: Any = MiniCPMVForConditionalGeneration.from_pretrained(request["model"], dtype=torch.float32)
        processor = MiniCPMVProcessor.from_pretrained(request["model"])
        said = {
            "chosen": [[{"role": "assistant", "content": answer}] for answer in answers],
            "rejected": [[{"role": "assistant", "content": "no colour at all"}] for _ in answers],
        }
        trainer: Any = DPOTrainer(
            model=model,
            args=DPOConfig(**common, per_device_train_batch_size=2, beta=0.1, max_length=None),
            train_dataset=Dataset.from_dict({"prompt": prompts, "images": images, **said}),
            processing_class=processor,
            data_collator=lambda records: collate_pairs(processor, records),
            peft_config=lora,
        )
    else:
        model = ModelOfNumbers.from_pretrained(request["model"], dtype=torch.float32)
        sampling = {"num_generations": 4, "max_completion_length": 6, "temperature": 1.0, "beta": 0.0}
        trainer = GRPOTrainer(
            model=model,
            args=GRPOConfig(**common, per_device_train_batch_size=4, **sampling),
            train_dataset=Dataset.from_dict({"prompt": prompts, "images": images, "answer": answers}),
            processing_class=ProcessorOfNumbers.from_pretrained(request["model"]),
            reward_funcs=first_letters,
            peft_config=lora,
        )
    before = {
        name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad
    }
    trainer.train()
    moved = sum(
        not torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters() if name in before
    )
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    values = {name: [entry[name] for entry in logged] for name in logged[0]}
    arrays: dict[str, Any] = {name.replace("/", "."): np.array(each) for name, each in values.items()}
    np.savez(result_file, moved=moved, trained=len(before), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
