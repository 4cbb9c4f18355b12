"""Runs in llama.cpp's own environment: asks its library questions about pictures and writes down what it computes.

    python drive_llama_cpp.py REQUEST.json RESULT.npz

REQUEST: ``model`` and ``vision`` (GGUF files), ``asks`` (each a ``prompt``, ``<__media__>`` where a picture goes, and
``images``), ``max_new_tokens``. RESULT, for the n-th: ``tokens_n`` (the prompt's, -1 for each of an image),
``image_n`` (image tokens, end to end), ``logits_n`` (behind the prompt), ``answer_n`` (ids, likeliest every time).
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp.llama_cpp as llama  # only in its own environment
import llama_cpp.mtmd_cpp as mtmd
import numpy as np

_CONTEXT = 2048


class Engine:
    """A language model and its vision part."""

    def __init__(self, model: str, vision: str) -> None:
        llama.llama_backend_init()
        loading = llama.llama_model_default_params()
        loading.use_extra_bufts = False  # kernels for matrix units, which virtual machines offer and then may not run
        self.model: Any = llama.llama_model_load_from_file(model.encode(), loading)
        assert self.model, f"llama.cpp does not load {model}"
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = _CONTEXT
        settings.n_threads = settings.n_threads_batch = 1
        settings.type_k = settings.type_v = 0  # a float32 cache: differences shall be the weights'
        settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context: Any = llama.llama_init_from_model(self.model, settings)
        vision_settings = mtmd.mtmd_context_params_default()
        vision_settings.use_gpu, vision_settings.n_threads, vision_settings.warmup = False, 1, False
        vision_settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.vision: Any = mtmd.mtmd_init_from_file(vision.encode(), self.model, vision_settings)
        assert self.vision, f"llama.cpp does not load {vision}"
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        self.vocabulary_size = llama.llama_vocab_n_tokens(self.vocabulary)
        self.width = llama.llama_model_n_embd(self.model)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text that holds no control tokens."""
        data = text.encode()
        ids = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self.vocabulary, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def ask(self, prompt: str, images: list[str], max_new_tokens: int) -> dict[str, Any]:
        """Answer one question."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        chunks = self._chunks(prompt, images)
        tokens: list[int] = []
        features: list[Any] = []
        place = llama.llama_pos(0)
        count = mtmd.mtmd_input_chunks_size(chunks)
        for index in range(count):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            num_tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            after = llama.llama_pos(place.value)  # to a text its length is added, for a picture it is set
            is_last = index == count - 1
            done = mtmd.mtmd_helper_eval_chunk_single(
                self.vision, self.context, chunk, place, 0, _CONTEXT, is_last, ctypes.byref(after)
            )
            assert done == 0, done
            place = after
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                values = mtmd.mtmd_get_output_embd(self.vision)
                features.append(np.ctypeslib.as_array(values, (num_tokens, self.width)).copy())
                tokens += [-1] * num_tokens
            else:
                ids = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(ctypes.c_size_t()))
                tokens += ids[:num_tokens]
        logits = self._logits()
        answer = self._answer(logits, max_new_tokens)
        return {"tokens": tokens, "image": np.concatenate(features), "logits": logits, "answer": answer}

    def _chunks(self, prompt: str, images: list[str]) -> Any:
        data = prompt.encode()
        text = mtmd.mtmd_input_text(data, len(data), False, True)
        bitmaps = [mtmd.mtmd_helper_bitmap_init_from_file(self.vision, image.encode(), False) for image in images]
        chunks = mtmd.mtmd_input_chunks_init()
        given = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
        done = mtmd.mtmd_tokenize(self.vision, chunks, ctypes.byref(text), given, len(bitmaps))
        assert done == 0, done
        return chunks

    def _answer(self, logits: Any, max_new_tokens: int) -> list[int]:
        answer: list[int] = []
        while len(answer) < max_new_tokens:
            token = int(logits.argmax())
            if llama.llama_vocab_is_eog(self.vocabulary, token):
                break
            answer.append(token)
            done = llama.llama_decode(self.context, llama.llama_batch_get_one((llama.llama_token * 1)(token), 1))
            assert done == 0, done
            logits = self._logits()
        return answer

    def _logits(self) -> Any:
        values = llama.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(values, (self.vocabulary_size,)).copy()


def main(request_file: str, result_file: str) -> None:
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    engine = Engine(request["model"], request["vision"])
    result: dict[str, Any] = {}
    for index, ask in enumerate(request["asks"]):
        for key, value in engine.ask(ask["prompt"], ask["images"], request["max_new_tokens"]).items():
            result[f"{key}_{index}"] = np.array(value)
    for index, text in enumerate(request.get("texts", [])):
        result[f"text_{index}"] = np.array(engine.tokenize(text), dtype=np.int64)
    np.savez(result_file, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
