"""Runs in vLLM's own environment: asks its offline engine questions about pictures and writes down its answers.

    python drive_vllm.py REQUEST.json RESULT.npz

REQUEST: ``model`` (a directory), ``asks`` (each a ``prompt`` with vLLM's picture mark, and ``images``),
``max_new_tokens``, ``end_ids``; optionally ``adapter`` and ``dtype`` (float32 if it is not given). RESULT, for the
n-th: ``tokens_n`` (the prompt's ids), ``answer_n`` (ids, likeliest every time), ``logprobs_n`` (of the first token,
over the whole vocabulary).
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from PIL import Image
from vllm import LLM, SamplingParams  # only in its own environment
from vllm.lora.request import LoRARequest


def main(request_file: str, result_file: str) -> None:
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    adapter = request.get("adapter")
    engine = LLM(
        model=request["model"],
        dtype=request.get("dtype", "float32"),
        max_model_len=1024,
        max_num_seqs=4,
        enforce_eager=True,
        gpu_memory_utilization=0.3,  # of the machine's memory, on a CPU
        limit_mm_per_prompt={"image": 1, "video": 0},
        max_logprobs=-1,
        enable_lora=adapter is not None,
        max_lora_rank=64,
    )
    sampling = SamplingParams(
        temperature=0, max_tokens=request["max_new_tokens"], stop_token_ids=request["end_ids"], logprobs=-1
    )
    prompts: list[Any] = [
        {"prompt": ask["prompt"], "multi_modal_data": {"image": Image.open(ask["images"][0]).convert("RGB")}}
        for ask in request["asks"]
    ]
    lora = None if adapter is None else LoRARequest("tuned", 1, adapter)
    result: dict[str, Any] = {}
    for index, output in enumerate(engine.generate(prompts, sampling, lora_request=lora)):
        (answer,) = output.outputs
        ids = [token for token in answer.token_ids if token not in request["end_ids"]]
        logprobs = np.full(max(answer.logprobs[0]) + 1, -np.inf, dtype=np.float32)
        for token, entry in answer.logprobs[0].items():
            logprobs[token] = entry.logprob
        result |= {f"tokens_{index}": output.prompt_token_ids, f"answer_{index}": ids, f"logprobs_{index}": logprobs}
    arrays: dict[str, Any] = {key: np.array(value) for key, value in result.items()}
    np.savez(result_file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
