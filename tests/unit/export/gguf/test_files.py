"""What stands in the files, read by the gguf library and by transformers, neither of which knows ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, ReaderTensor, TokenType
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer

from minicpmv.export.gguf.export import GGUFExport, export_gguf
from minicpmv.models.networks.positions import SinePositions
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.exportable import write_exportable


class Exported:
    """One model and the files made of it."""

    def __init__(self, folder: Path, fixture: str) -> None:
        self.source = write_exportable(folder / fixture, fixture)
        self.done: GGUFExport = export_gguf(str(self.source), folder / "gguf", run=False)
        self.weights = load_file(self.source / "model.safetensors")
        readers = [GGUFReader(file) for file in (self.done.model, self.done.vision)]
        self.fields: list[dict[str, Any]] = [
            {key: field.contents() for key, field in reader.fields.items()} for reader in readers
        ]
        self.tensors: list[dict[str, ReaderTensor]] = [
            {tensor.name: tensor for tensor in reader.tensors} for reader in readers
        ]


@pytest.fixture(scope="module", params=["v2_5", "v2_6", "v4_5"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"), request.param)


def _equal(found: ReaderTensor, expected: torch.Tensor) -> None:
    np.testing.assert_array_equal(found.data, expected.numpy())


def test_every_value_of_the_checkpoint_is_in_one_of_the_files(exported: Exported) -> None:
    in_files = sum(tensor.n_elements for file in exported.tensors for tensor in file.values())
    table = exported.tensors[1]["resampler.pos_embed_k"].n_elements
    assert in_files - table == sum(tensor.numel() for tensor in exported.weights.values())


def test_what_needs_no_change_stands_under_the_engines_name(exported: Exported) -> None:
    language, vision = exported.tensors
    weights = exported.weights
    _equal(language["token_embd.weight"], weights["llm.model.embed_tokens.weight"])
    _equal(language["output.weight"], weights["llm.lm_head.weight"])
    _equal(language["blk.1.ffn_down.weight"], weights["llm.model.layers.1.mlp.down_proj.weight"])
    _equal(vision["v.patch_embd.weight"], weights["vpm.embeddings.patch_embedding.weight"])
    _equal(vision["v.position_embd.weight"], weights["vpm.embeddings.position_embedding.weight"])
    _equal(vision["v.blk.1.ffn_up.weight"], weights["vpm.encoder.layers.1.mlp.fc1.weight"])
    _equal(vision["v.post_ln.bias"], weights["vpm.post_layernorm.bias"])
    _equal(vision["resampler.query"], weights["resampler.query"])


def test_the_resamplers_joined_projections_are_taken_apart(exported: Exported) -> None:
    vision, weights = exported.tensors[1], exported.weights
    for kind in ("weight", "bias"):
        parts = weights[f"resampler.attn.in_proj_{kind}"].chunk(3)
        for letter, part in zip("qkv", parts, strict=True):
            _equal(vision[f"resampler.attn.{letter}.{kind}"], part)
    _equal(vision["resampler.proj.weight"], weights["resampler.proj"].T)


def test_older_engines_find_the_table_of_positions(exported: Exported) -> None:
    width = exported.weights["resampler.proj"].shape[0]
    _equal(
        exported.tensors[1]["resampler.pos_embed_k"],
        SinePositions(width).of_grid([(70, 70)], torch.device("cpu"), torch.float32),
    )


def test_llamas_rotation_of_neighbours_gives_the_scores_of_ours(exported: Exported) -> None:
    """Attention scores, computed as each side turns queries and keys: halves here, neighbours in llama.cpp."""
    fields, tensors = exported.fields[0], exported.tensors[0]
    if fields["general.architecture"] != "llama":
        _equal(tensors["blk.0.attn_q.weight"], exported.weights["llm.model.layers.0.self_attn.q_proj.weight"])
        return
    heads, groups = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    width = fields["llama.rope.dimension_count"]
    hidden = torch.randn(5, fields["llama.embedding_length"])
    omega = 10000.0 ** (-torch.arange(width // 2) * 2 / width)
    angle = torch.outer(torch.arange(5.0), omega)

    def turned(weight: torch.Tensor, count: int, *, neighbours: bool) -> torch.Tensor:
        rows = (hidden @ weight.T).unflatten(-1, (count, width)).transpose(0, 1)
        pairs = rows.unflatten(-1, (-1, 2)) if neighbours else rows.unflatten(-1, (2, -1)).transpose(-1, -2)
        first, second = pairs.unbind(-1)
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    def scores(query: torch.Tensor, key: torch.Tensor, *, neighbours: bool) -> torch.Tensor:
        keys = turned(key, groups, neighbours=neighbours).repeat_interleave(heads // groups, dim=0)
        queries = turned(query, heads, neighbours=neighbours)
        return scaled_dot_product_attention(queries, keys, torch.eye(5).expand(heads, 5, 5))

    names = [f"llm.model.layers.0.self_attn.{letter}_proj.weight" for letter in "qk"]
    expected = scores(*(exported.weights[name] for name in names), neighbours=False)
    theirs = [torch.from_numpy(np.array(tensors[f"blk.0.attn_{letter}.weight"].data)) for letter in "qk"]
    torch.testing.assert_close(scores(*theirs, neighbours=True), expected)


def test_sizes_are_the_configs(exported: Exported) -> None:
    language, vision = exported.fields
    arch = language["general.architecture"]
    assert language[f"{arch}.embedding_length"] == 128
    assert language[f"{arch}.block_count"] == 2
    assert language[f"{arch}.vocab_size"] == len(language["tokenizer.ggml.tokens"])
    assert vision["clip.vision.image_size"] == 56  # what slices are cut by, not the size of the table
    assert vision["clip.vision.block_count"] == 2
    assert vision["clip.minicpmv_query_num"] == len(exported.weights["resampler.query"])
    assert vision["clip.vision.attention.layer_norm_epsilon"] == pytest.approx(1e-6)


def test_transformers_reads_the_tokenizer_from_the_file_and_gives_the_same_ids(exported: Exported) -> None:
    ours = MiniCPMVProcessor.from_pretrained(exported.source).tokenizer
    theirs = AutoTokenizer.from_pretrained(exported.done.model.parent, gguf_file=exported.done.model.name)
    for text in ("the cat is on 1234 mats!\n\n  it's  fine", "größer 图像 🙂", "\t x"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, add_special_tokens=False)


def test_markup_is_printed_and_control_tokens_are_not(exported: Exported) -> None:
    fields = exported.fields[0]
    kinds = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
    assert kinds["<box>"] == kinds["</ref>"] == TokenType.USER_DEFINED
    assert kinds["<image>"] == kinds["</slice>"] == kinds["<unk>"] == TokenType.CONTROL
    assert kinds["!"] == TokenType.NORMAL  # which 2.5 declares as padding


def test_an_answer_ends_where_it_ends_here(exported: Exported) -> None:
    fields = exported.fields[0]
    end = fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]]
    assert end == {"llama": "<|eot_id|>"}.get(fields["general.architecture"], "<|im_end|>")
    assert fields["tokenizer.ggml.add_bos_token"] is False
