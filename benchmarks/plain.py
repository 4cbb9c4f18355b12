"""The plain way to train, as a baseline that runs: what most code for these models does, and nothing wrong with it.

    python -m benchmarks.plain MODEL DATA --method lora --records 28

One record to a row, rows padded to the longest of their batch, slices padded to the longest of the batch, the tower run
on all of them in every epoch, logits at every position and once more in float32, pictures decoded in the training
process. Weights, losses and labels are those of the package: on one batch both give the same loss.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.pixels import read_pixels
from minicpmv.models.networks.positions import grid_position_ids
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.row import DEFAULT_LORA_TARGET

__all__ = ["PlainWay", "main"]

# Shape letters in this file
#   S slices of a batch    L patches of the longest    E vision width    H heads    K channels of a head
#   Q queries    D language width    B rows    T tokens of the longest    V vocabulary


class PlainWay(nn.Module):
    """A MiniCPM-V-2.6 whose slices and rows are padded, and whose logits are all computed."""

    def __init__(self, model: MiniCPMVForConditionalGeneration, *, tower_attention: str = "sdpa") -> None:
        super().__init__()
        self.model: Any = model
        self._attend = _attend_eagerly if tower_attention == "eager" else scaled_dot_product_attention

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        pixel_values: Tensor,
        pixel_table: Tensor,
        tgt_sizes: Tensor,
        image_mask: Tensor,
    ) -> Tensor:
        embeds_BTD = self.model.get_input_embeddings()(input_ids)
        patches_P588 = read_pixels(pixel_values, pixel_table, pixel_table.dtype)
        features_SQD = self._see(patches_P588, [tuple(size) for size in tgt_sizes.tolist()])
        embeds_BTD = embeds_BTD.masked_scatter(image_mask[..., None], features_SQD.to(embeds_BTD))
        positions_BT = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        hidden_BTD = self.model.llm.model(
            inputs_embeds=embeds_BTD, attention_mask=attention_mask, position_ids=positions_BT, use_cache=False
        ).last_hidden_state
        logits_BTV = self.model.llm.lm_head(hidden_BTD).float()
        return cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def _see(self, patches_P588: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        tower, resampler = self.model.vpm, self.model.resampler
        lengths = [rows * columns for rows, columns in sizes]
        patches_SL588 = pad_sequence(list(patches_P588.split(lengths)), batch_first=True)
        longest = patches_SL588.shape[1]
        real_SL = torch.arange(longest) < torch.tensor(lengths)[:, None]
        ids_P = grid_position_ids(sizes, tower.embeddings.table_side, patches_P588.device)
        ids_SL = pad_sequence(list(ids_P.split(lengths)), batch_first=True)
        embeddings = tower.embeddings
        hidden_SLE = embeddings.patch_embedding(patches_SL588) + embeddings.position_embedding(ids_SL)
        for layer in tower.encoder.layers:
            normed = layer.layer_norm1(hidden_SLE)
            query, key, value = (
                getattr(layer.self_attn, f"{name}_proj")(normed)
                .unflatten(-1, (-1, layer.self_attn.head_width))
                .transpose(1, 2)
                for name in "qkv"
            )
            attended_SHLK = self._attend(query, key, value, attn_mask=real_SL[:, None, None])
            hidden_SLE = hidden_SLE + layer.self_attn.out_proj(attended_SHLK.transpose(1, 2).flatten(2))
            hidden_SLE = hidden_SLE + layer.mlp(layer.layer_norm2(hidden_SLE))
        features_SLE = tower.post_layernorm(hidden_SLE)
        # The resampler costs little: the package's own, on the real patches.
        return resampler(features_SLE[real_SL], sizes, None)


def _attend_eagerly(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor) -> Tensor:
    hidden = torch.zeros(attn_mask.shape).masked_fill_(~attn_mask, torch.finfo(torch.float32).min)
    logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + hidden
    return torch.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def _prepare(model: MiniCPMVForConditionalGeneration, method: str, tower_attention: str) -> PlainWay:
    if method != "full":
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=64,
            lora_alpha=64,
            lora_dropout=0.05,
            target_modules=DEFAULT_LORA_TARGET,
            modules_to_save=["embed_tokens", "resampler", *(["vpm"] if method == "lora" else [])],
        )
        wrapped: Any = get_peft_model(model, config)
        model = wrapped.base_model.model
    return PlainWay(model, tower_attention=tower_attention)


def _batches(dataset: ConversationDataset, size: int, number: int) -> Iterator[dict[str, Tensor]]:
    collate = Collator(0)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, number, size):
        yield collate.join([dataset[order[index % len(order)]] for index in range(start, min(start + size, number))])


def measure(
    model: str,
    data: str,
    *,
    method: str,
    batch_size: int,
    accumulation: int,
    records: int,
    bf16: bool,
    tower_attention: str,
) -> dict[str, float]:
    """Train on so many records, after a warm-up of one optimizer step; return samples per second and peak memory."""
    dtype = torch.bfloat16 if method != "full" and bf16 else torch.float32
    base = MiniCPMVForConditionalGeneration.from_pretrained(model, dtype=dtype)
    way = _prepare(base, method, tower_attention).train()
    dataset = ConversationDataset(load_records(data), MiniCPMVProcessor.from_pretrained(Path(model)), max_length=32768)
    trained = [parameter for parameter in way.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    warm_up = batch_size * accumulation
    started, seen, losses = 0.0, 0, []
    for number, batch in enumerate(_batches(dataset, batch_size, warm_up + records), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = way(**batch)
        (loss / accumulation).backward()
        losses.append(loss.item())
        if number % accumulation == 0:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if number == accumulation:
            started = time.perf_counter()
        elif number > accumulation:
            seen += len(batch["input_ids"])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"samples_per_second": seen / seconds, "memory_gib": peak, "first_loss": losses[0]}


def main() -> None:
    """Measure it as the command line says, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--method", choices=("full", "lora", "frozen-tower"), default="full", help="frozen-tower: LoRA")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--records", type=int, default=24)
    parser.add_argument(
        "--tower-attention",
        choices=("sdpa", "eager"),
        default="sdpa",
        help="eager: written out, its softmax in float32, as in the code that was released with the models.",
    )
    parser.add_argument("--fp32", action="store_true", help="Without bfloat16 autocast.")
    asked = parser.parse_args()
    print(
        json.dumps(
            measure(
                asked.model,
                asked.data,
                method=asked.method,
                batch_size=asked.batch_size,
                accumulation=asked.accumulation,
                records=asked.records,
                bf16=not asked.fp32,
                tower_attention=asked.tower_attention,
            )
        )
    )


if __name__ == "__main__":
    main()
