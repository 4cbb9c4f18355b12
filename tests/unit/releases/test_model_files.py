"""What a checkpoint's files may say: values in their bounds, no name that has code or models fetched."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.inference.loading import base_of_adapter, load_model
from minicpmv.models.adapters.adapter_config import check_patterns_end, read_adapter_config
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.releases.model_files import check_model_files
from tests.hostile.mutations import copy_model
from tests.tiny import FIXTURES

_NAMES = [f"llm.model.layers.{layer}.self_attn.q_proj" for layer in range(40)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    copy_model(FIXTURES / "v2_6", tmp_path / "model")
    return tmp_path / "model"


def edit(file: Path, key: str, value: Any) -> None:
    """Set a value; a dot in the key leads into an object."""
    content = json.loads(file.read_text(encoding="utf-8"))
    inner, *path = content, *key.split(".")
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("version", ["v2", "v2_5", "v2_6", "v4", "v4_5"])
def test_released_values_are_sound(version: str) -> None:
    check_model_files(FIXTURES / version)


_NONSENSE: list[tuple[str, str, Any]] = [
    ("config.json", "num_hidden_layers", 10**9),
    ("config.json", "num_hidden_layers", -1),
    ("config.json", "num_hidden_layers", True),
    ("config.json", "num_hidden_layers", 2.5),
    ("config.json", "num_hidden_layers", "2"),
    ("config.json", "num_attention_heads", 0),
    ("config.json", "num_attention_heads", 7),
    ("config.json", "num_key_value_heads", 3),
    ("config.json", "hidden_size", 100),
    ("config.json", "vocab_size", 10**12),
    ("config.json", "query_num", 10**10),
    ("config.json", "eos_token_id", 424),
    ("config.json", "rms_norm_eps", float("nan")),
    ("config.json", "rope_theta", float("inf")),
    ("config.json", "rope_scaling", {"rope_type": "yarn", "factor": 0}),
    ("config.json", "torch_dtype", "float99"),
    ("config.json", "hidden_act", "nothing"),
    ("config.json", "vision_config", []),
    ("config.json", "vision_config.num_hidden_layers", 10**9),
    ("config.json", "vision_config.patch_size", 0),
    ("config.json", "vision_config.num_attention_heads", 5),
    ("config.json", "slice_config.max_slice_nums", -1),
    ("config.json", "auto_map.AutoConfig", 0),
    ("config.json", "text_config", {"hidden_size": 1}),
    ("config.json", "layer_types", ["full_attention"]),
    ("config.json", "quantization_config", {"quant_method": "mxfp4"}),
    ("config.json", "attn_implementation", "owner/kernel"),
    ("config.json", "_attn_implementation", "owner/kernel"),
    ("config.json", "vision_config.attn_implementation", "owner/kernel"),
    ("preprocessor_config.json", "image_feature_size", 10**9),
    ("preprocessor_config.json", "norm_std", [0, 0.5, 0.5]),
    ("preprocessor_config.json", "norm_mean", "x"),
    ("preprocessor_config.json", "norm_mean", [0.5, 0.5]),
    ("preprocessor_config.json", "norm_mean", [0.5, 0.5, float("nan")]),
    ("preprocessor_config.json", "scale_resolution", -448),
    ("preprocessor_config.json", "max_slice_nums", 10**9),
    ("generation_config.json", "num_beams", 10**9),
    ("generation_config.json", "temperature", float("nan")),
    ("generation_config.json", "custom_generate", "owner/name"),
    ("tokenizer_config.json", "added_tokens_decoder", {"x": {"content": "y"}}),
    ("tokenizer_config.json", "added_tokens_decoder", {"7": {}}),
    ("special_tokens_map.json", "eos_token", 7),
    ("added_tokens.json", "<x>", -5),
]


@pytest.mark.parametrize(("file", "key", "value"), _NONSENSE, ids=lambda value: str(value)[:40])
def test_nonsense_is_named_by_file_and_key(model: Path, file: str, key: str, value: Any) -> None:
    edit(model / file, key, value)
    last = key.rpartition(".")[2]
    with pytest.raises(
        CheckpointError, match=rf"(?s)^{model / file}: .*{last}.*found .*, expected .*\n  fix: "
    ) as raised:
        check_model_files(model)
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize(
    ("method", "name"), [("awq", "AWQ"), ("gptq", "GPTQ"), ("compressed-tensors", "llm-compressor")]
)
@pytest.mark.parametrize(("fixture", "release"), [("v4_6", "openbmb/MiniCPM-V-4.6"), ("v4_5", "openbmb/MiniCPM-V-4_5")])
def test_weights_that_were_packed_for_other_engines_are_refused_with_the_release_to_take(
    method: str, name: str, fixture: str, release: str, tmp_path: Path
) -> None:
    copy_model(FIXTURES / fixture, tmp_path / "model")
    packing = {"quant_method": method, "bits": 4, "group_size": 128, "version": "gemm", "modules_to_not_convert": None}
    edit(tmp_path / "model" / "config.json", "quantization_config", packing)
    with pytest.raises(
        CheckpointError, match=rf"found '{method}'.*{name} packs weights(.|\n)*take the unquantized {release}; --q_lora"
    ):
        load_model(str(tmp_path / "model"))


def test_unknown_keys_change_nothing(model: Path) -> None:
    edit(model / "config.json", "made_by", {"anything": [1, "x"]})
    check_model_files(model)
    assert MiniCPMVConfig.from_pretrained(model).to_dict()["made_by"] == {"anything": [1, "x"]}


@pytest.mark.parametrize(
    "key", ["to_dict", "__class__", "minicpmv_version", "_released", "num_labels", "is_encoder_decoder"]
)
def test_a_key_replaces_no_part_of_the_program(model: Path, key: str) -> None:
    edit(model / "config.json", key, 5)
    config = MiniCPMVConfig.from_pretrained(model)
    assert config.minicpmv_version.name == "2.6"
    assert config.to_dict()["hidden_size"] == 128


_SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a FIFO": lambda file: os.mkfifo(file),
    "a folder": lambda file: file.mkdir(),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to nothing": lambda file: file.symlink_to("/nowhere/at/all"),
    "a link to itself": lambda file: file.symlink_to(file.name),
}


@pytest.mark.parametrize("what", _SPECIAL)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "tokenizer.model"])
def test_what_is_no_plain_file_is_named(model: Path, name: str, what: str) -> None:
    (model / name).unlink(missing_ok=True)
    _SPECIAL[what](model / name)
    with pytest.raises(CheckpointError, match=rf"^{model / name}: found "):
        check_model_files(model)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" + '"a":' * 10 + "}", "[]", "5", '"x"', '{"a": ' + "9" * 5000 + "}", "\xff"]
)
def test_what_is_no_json_object_is_named(model: Path, text: str) -> None:
    (model / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=rf"^{model / 'config.json'}: found no (readable )?JSON"):
        check_model_files(model)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 5, "a\\b"])
def test_an_index_names_files_of_its_own_directory(model: Path, name: Any) -> None:
    index = {"metadata": {}, "weight_map": {"llm.lm_head.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"weight_map\['llm.lm_head.weight'\]: found .* file in the same directory"
    ):
        check_model_files(model)


def test_an_adapter_config_beside_a_model_is_named(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"found adapter_config.json beside config.json"):
        check_model_files(model)


@pytest.mark.parametrize("stated", ["flash_attention_2", "flex_attention"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_checkpoint_chooses_no_kernel(model: Path, key: str, stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `kernels` is installed, transformers fetches a name it does not have, flash_attention_2's as well."""
    asked: list[Any] = []
    kernels: Any = types.ModuleType("kernels")
    kernels.get_kernel = lambda *args, **options: asked.append(args)
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda *_: True)
    monkeypatch.setattr("transformers.integrations.hub_kernels.is_kernels_available", lambda *_: True, raising=False)
    edit(model / "config.json", key, stated)
    edit(model / "config.json", f"vision_config.{key}", stated)
    loaded = load_model(model, device="cpu")
    assert asked == []
    assert loaded.model.config._attn_implementation == "sdpa"


def write_adapter(folder: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | fields
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", 10**9),
        ("r", True),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 2),
        ("target_modules", 5),
        ("target_modules", "a" * 20_000),
        ("target_modules", [5]),
        ("rank_pattern", {"q": "x"}),
        ("alpha_pattern", []),
        ("layers_to_transform", [-1]),
        ("modules_to_save", "resampler"),
        ("layer_replication", [[0, 10**9]]),
        ("megatron_config", {"a": 1}),
        ("megatron_core", "os"),
        ("base_model_name_or_path", 5),
        ("base_model_name_or_path", ["owner/name"]),
    ],
)
def test_nonsense_of_an_adapter_is_named(tmp_path: Path, key: str, value: Any) -> None:
    folder = write_adapter(tmp_path / "adapter", **{key: value})
    with pytest.raises(CheckpointError, match=rf"adapter_config.json: {key}.*found .*, expected .*\n  fix: "):
        read_adapter_config(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", r"(([a-z._0-9]+)+)+!"),
        pytest.param("exclude_modules", r"(.|.)*!", marks=pytest.mark.slow),
        ("rank_pattern", {r"(([a-z._0-9]+)+)+!": 2}),
        pytest.param("layers_pattern", [r"(([a-z._0-9]+)+)+!"], marks=pytest.mark.slow),
        pytest.param("modules_to_save", [r"(([a-z._0-9]+)+)+!"], marks=pytest.mark.slow),
        ("target_modules", "(unclosed"),
    ],
)
def test_a_pattern_without_end_is_named(key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.models.adapters.adapter_config._SECONDS", 3.0)
    with pytest.raises(CheckpointError, match=rf"^here: {key}: found .* pattern that cannot be matched"):
        check_patterns_end({key: value}, _NAMES, "here")


def test_patterns_as_tools_write_them_end() -> None:
    swift = r"^(llm(?=\.).*\.(q_proj|k_proj|o_proj)|resampler(?=\.).*\.(kv_proj))$"
    ours = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
    for target in (swift, ours, ["q_proj"], "all-linear"):
        check_patterns_end({"target_modules": target, "rank_pattern": {r"layers\.\d+\.q_proj": 2}}, _NAMES, "here")


@pytest.mark.parametrize("name", ["owner/name", "../../etc", "/nowhere", "a\0b", "owner", "\x1b[31m/x"])
def test_a_base_that_an_adapter_names_is_not_fetched(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = write_adapter(tmp_path / "adapter", base_model_name_or_path=name)
    monkeypatch.chdir(folder)  # two folders above the checkout there may well be an etc
    with pytest.raises(CheckpointError, match=r"base_model_name_or_path names .*, found no ") as raised:
        base_of_adapter(folder)
    assert "\x1b" not in str(raised.value)
