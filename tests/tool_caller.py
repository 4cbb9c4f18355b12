"""A small 4.6 that calls a tool: it knows one conversation by heart.

Its layers all have full attention, which trains in a tenth of the time that linear attention takes on a CPU.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from minicpmv.inference.loading import load_processor
from minicpmv.processing.batching import pad_left
from minicpmv.processing.text.messages import read_messages
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES
from tests.tool_templates import with_tools

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "find", "parameters": {"properties": {"code": {"type": "string"}}}}}
]
QUESTION = "Where is 7?"
CALLS = [{"type": "function", "function": {"name": "find", "arguments": '{"code": "7"}'}}]
RESULT = "here"
ANSWER = "It is here."
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "content": RESULT},
    {"role": "assistant", "content": ANSWER},
]
_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def write_caller(folder: Path) -> Path:
    """Write a model that answers QUESTION with text and CALLS, and RESULT with ANSWER, if it knows of TOOLS."""
    shutil.copytree(FIXTURES / "v4_6", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(_TOKENS)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(with_tools(), encoding="utf-8")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields["text_config"] |= {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    network = VERSIONS["4.6"].network
    torch.manual_seed(0)
    model = find_code(network.model)(find_code(network.config)(**fields))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # wide enough to learn in a few steps
                weight.normal_(std=weight.shape[-1] ** -0.5)
    processor = load_processor(folder)
    turns, _, _ = read_messages(MESSAGES, tools=TOOLS)
    sample = processor.encode_conversation(turns)
    inputs = pad_left([sample], processor.image_processor, "pt")
    labels = torch.tensor([sample.labels])
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    loss = torch.inf
    for _ in range(100):
        loss = model(**inputs, labels=labels).loss
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05, loss
    model.save_pretrained(folder)
    (folder / "tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    return folder
