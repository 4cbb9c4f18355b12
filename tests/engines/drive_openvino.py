"""Runs in optimum-intel's own environment: asks a directory's released code, and what is exported from it to OpenVINO.

    python drive_openvino.py REQUEST.json RESULT.npz

REQUEST: ``model`` (a directory with the released code in it), ``exported`` (a folder to write), ``asks`` (each a
``question`` and a ``picture``), ``max_new_tokens``. RESULT, for the n-th, from the released code: ``tokens_n`` (the
prompt's ids), ``logits_n`` (behind it), ``image_n`` (its image tokens) and ``answer_n`` (ids, likeliest every time,
without the end); from OpenVINO the same but the tokens, as ``openvino_logits_n`` and so on.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from optimum.exporters.openvino import main_export  # only in its own environment
from optimum.intel import OVModelForVisualCausalLM
from PIL import Image
from transformers import AutoModel

_ENDS = ["<|im_end|>", "<|endoftext|>"]


def _prepare(processor: Any, ask: dict[str, str]) -> Any:
    # optimum-intel's own preprocess_inputs leaves out the chat template, and with it the system message.
    messages = [{"role": "user", "content": f"(<image>./</image>)\n{ask['question']}"}]
    prompt = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor([prompt], [[Image.open(ask["picture"]).convert("RGB")]], return_tensors="pt")
    inputs.pop("image_sizes")
    return inputs


def _export(model: str, exported: str) -> Any:
    main_export(model, exported, task="image-text-to-text", trust_remote_code=True)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    engine = OVModelForVisualCausalLM.from_pretrained(exported, trust_remote_code=True, ov_config=exact)
    resample = engine.resampler.forward

    def resample_without_padding(image_feature: Any, pos_embed: Any, key_padding_mask: Any) -> Any:
        # optimum-intel 2.2.0 exports a mask of numbers that are added, and hands it true and false.
        mask = torch.zeros(key_padding_mask.shape).masked_fill(key_padding_mask, float("-inf"))
        return resample(image_feature, pos_embed, mask)

    engine.resampler.forward = resample_without_padding
    return engine


@torch.inference_mode()
def main(request_file: str, result_file: str) -> None:
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    released = AutoModel.from_pretrained(request["model"], trust_remote_code=True, dtype=torch.float32).eval()
    tokenizer = released.processor.tokenizer
    ends = tokenizer.convert_tokens_to_ids(_ENDS)
    engine = _export(request["model"], request["exported"])
    likeliest = {"do_sample": False, "max_new_tokens": request["max_new_tokens"]}
    result: dict[str, Any] = {}
    for index, ask in enumerate(request["asks"]):
        inputs = _prepare(released.processor, ask)
        prompt = inputs["input_ids"][0].tolist()
        seen = {key: value for key, value in inputs.items() if key != "attention_mask"}
        _, (image,) = released.get_vllm_embedding(seen)
        logits = released(seen | {"position_ids": torch.arange(len(prompt))[None]}).logits[0, -1]
        answered = released.generate(**inputs, tokenizer=tokenizer, **likeliest)[0].tolist()
        answer = [token for token in answered if token not in ends]
        result |= {f"tokens_{index}": prompt, f"image_{index}": image.flatten(0, 1).numpy()}
        result |= {f"logits_{index}": logits.numpy(), f"answer_{index}": answer}

        (image,) = engine.get_vision_embeddings(inputs["pixel_values"], tgt_sizes=inputs["tgt_sizes"])
        output = engine.generate(
            **inputs,
            **likeliest,
            eos_token_id=ends,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        answer = [token for token in output.sequences[0, len(prompt) :].tolist() if token not in ends]
        result |= {f"openvino_image_{index}": image.flatten(0, 1).numpy(), f"openvino_answer_{index}": answer}
        result[f"openvino_logits_{index}"] = output.logits[0][0].numpy()
    arrays: dict[str, Any] = {key: np.array(value) for key, value in result.items()}
    np.savez(result_file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
