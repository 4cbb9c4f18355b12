"""Small MiniCPM-o checkpoints: vision and language with random weights, and hearing and speech of random bytes.

What is carried has several precisions, one of them whole numbers, and bit patterns that no computing would keep: NaN
with a payload. Some lies in a file together with weights that are trained.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AddedToken, AutoTokenizer

from minicpmv.models.checkpoints.carried import Facts, find_carried
from minicpmv.models.checkpoints.weight_files import find_weight_files
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES

__all__ = ["AUDIO_TOKENS", "SPEECH", "UNFLAGGED", "assets_of", "carried_in", "write_omni"]

SPEECH = ("apm.", "audio_projection_layer.", "tts.")
AUDIO_TOKENS = (
    "<unit>", "</unit>", "<answer>", "</answer>", "<|audio_start|>", "<|audio|>", "<|audio_end|>", "<|spk_bos|>",
    "<|spk|>", "<|spk_eos|>", "<|tts_bos|>", "<|tts_eos|>", "<|listen|>", "<|speak|>", "<|interrupt|>", "<|tts_pad|>",
    "<|timbre_7|>",
)  # fmt: skip
"""Some of those that the released tokenizers have beyond MiniCPM-V's."""
UNFLAGGED = "<|speak|>"
"""One that the file does not call special, as Qwen's files do with some."""

_SOURCES = {"o-2.6": "v2_6", "o-4.5": "v4_5"}
_SHAPES = {
    "apm.conv1.weight": (torch.bfloat16, (8, 3, 3)),
    "apm.conv1.bias": (torch.bfloat16, (8,)),
    "apm.layers.0.self_attn.q_proj.weight": (torch.bfloat16, (8, 8)),
    "apm.layers.0.self_attn.k_proj.weight": (torch.bfloat16, (8, 8)),
    "audio_projection_layer.linear1.weight": (torch.float32, (128, 8)),
    "audio_projection_layer.linear2.bias": (torch.float32, (128,)),
    "tts.model.layers.0.self_attn.q_proj.weight": (torch.float16, (16, 16)),
    "tts.model.embed_tokens.weight": (torch.bfloat16, (10, 16)),
    "tts.emb_code.0.weight": (torch.float32, (5, 16)),
    "tts.head_code.0.parametrizations.weight.original0": (torch.bfloat16, (5, 1)),
    "tts.count": (torch.int64, ()),
}


def write_omni(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write a whole checkpoint.

    Args:
        folder: Where to.
        name: ``o-2.6``, whose file states no version, or ``o-4.5``.
        seed: Of all weights.
    """
    version, source = VERSIONS[name], FIXTURES / _SOURCES[name]
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([AddedToken(text, special=text != UNFLAGGED, normalized=False) for text in AUDIO_TOKENS])
    tokenizer.save_pretrained(folder)
    _change(folder / "tokenizer_config.json", tokenizer_class="MiniCPMOTokenizerFast")
    released = json.loads((source / "config.json").read_text(encoding="utf-8"))
    fields = {key: value for key, value in released.items() if key not in ("version", "batch_3d_resampler")}
    fields |= {
        "model_type": "minicpmo",
        "architectures": ["MiniCPMO"],
        "auto_map": {"AutoModel": "modeling_minicpmo.MiniCPMO", "AutoConfig": "modeling_minicpmo.MiniCPMOConfig"},
        "vocab_size": len(tokenizer),
        "torch_dtype": "float32",
        "audio_config": {
            "_name_or_path": "openai/whisper-medium",
            "model_type": "whisper",
            "d_model": 8,
            "layers": [1],
        },
        "tts_config": {"model_type": "conditional_chattts", "attn_implementation": "sdpa", "top_p": 0.7},
        "init_vision": True,
        "init_audio": True,
        "init_tts": True,
        "audio_pool_step": 5 if name == "o-4.5" else 2,
        "stream_input": True,
    }
    if name == "o-4.5":
        fields["version"] = "4.5"
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    pictures = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    pictures |= {"version": float(name.removeprefix("o-")), "processor_class": "MiniCPMOProcessor"}
    pictures |= {"auto_map": {"AutoProcessor": "processing_minicpmo.MiniCPMOProcessor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures), encoding="utf-8")
    (folder / "modeling_minicpmo.py").write_text("raise SystemExit('code of the directory was run')\n")
    (folder / "processing_minicpmo.py").write_text("raise SystemExit('code of the directory was run')\n")
    (folder / "tokenization_minicpmo_fast.py").write_text("raise SystemExit('code of the directory was run')\n")
    torch.manual_seed(seed)
    find_code(version.network.model)(find_code(version.network.config)(**fields)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    _add_speech(folder, seed)
    _write_assets(folder / "assets")
    return folder


def carried_in(folder: Path) -> Facts:
    """Return precision, shape and sha256 of what a model directory holds of hearing and speech."""
    return find_carried(find_weight_files(folder), SPEECH).facts()


def assets_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file below ``assets``."""
    files = [path for path in sorted((folder / "assets").rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _change(file: Path, **fields: Any) -> None:
    stated = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(stated | fields), encoding="utf-8")


def _add_speech(folder: Path, seed: int) -> None:
    """Put the tensors into two files, one of which holds trained weights as well."""
    own = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    speech = {name: _random(dtype, shape, seed + place) for place, (name, (dtype, shape)) in enumerate(_SHAPES.items())}
    moved = [name for name in own if name.startswith("resampler.")]
    first = {name: tensor for name, tensor in own.items() if name not in moved}
    second = {name: own[name] for name in moved} | {key: each for key, each in speech.items() if key.startswith("apm.")}
    third = {name: tensor for name, tensor in speech.items() if name not in second}
    files: dict[str, str] = {}
    for number, tensors in enumerate((first, second, third), start=1):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _random(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Make a tensor of random bytes; about one in a hundred of its numbers is NaN."""
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return data.view(dtype).reshape(shape)


def _write_assets(folder: Path) -> None:
    contents = {
        "Vocos.pt": b"\x80\x02weights of a vocoder",
        "token2wav/flow.pt": bytes(range(256)) * 40,
        "token2wav/speech_tokenizer.onnx": b"onnx" * 1000,
        "token2wav/.order": b"1",
        "token2wav/checkpoint-7/flow.safetensors": b"not looked into",
        "chattts_tokenizer/tokenizer.json": b"{}",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
