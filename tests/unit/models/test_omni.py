"""MiniCPM-o directories: which release they are, what loads them, what is carried beside their models."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.models.checkpoints.carried import find_carried
from minicpmv.models.checkpoints.companions import copy_companions, list_companions, list_whole_folders
from minicpmv.models.checkpoints.weight_files import find_weight_files
from minicpmv.models.configuration import MiniCPMOConfig, MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMOForConditionalGeneration, MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMOProcessor, MiniCPMVProcessor
from minicpmv.processing.tokens.released_tokenizers import MiniCPMOTokenizerFast
from minicpmv.releases.table import VERSIONS, detect_version
from minicpmv.training.learning.targets import resolve_target
from tests.omni import AUDIO_TOKENS, SPEECH, UNFLAGGED, assets_of, carried_in, write_omni
from tests.tiny import FIXTURES, picture

_BOTH = pytest.mark.parametrize("name", ["o-2.6", "o-4.5"])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("omni")
    return {name: write_omni(folder / name, name) for name in ("o-2.6", "o-4.5")}


@pytest.fixture
def base(bases: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(bases["o-4.5"], tmp_path / "base")


def fields_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------- which release


@pytest.mark.parametrize(
    ("version", "name"),
    [(None, "o-2.6"), (2.6, "o-2.6"), ("2.6", "o-2.6"), (4.5, "o-4.5"), ("4.5", "o-4.5"), ("o-4.5", "o-4.5")],
)
def test_a_release_is_known_by_type_and_version(version: object, name: str) -> None:
    assert detect_version({"model_type": "minicpmo", "version": version}).name == name
    if version is None:
        assert detect_version({"model_type": "minicpmo"}).name == name


def test_the_same_version_of_another_type_is_another_release() -> None:
    assert detect_version({"model_type": "minicpmv", "version": 4.5}).name == "4.5"
    with pytest.raises(CheckpointError, match=r"found version 5, expected one of o-2\.6, o-4\.5"):
        detect_version({"model_type": "minicpmo", "version": 5})


@_BOTH
def test_auto_classes_load_it_and_run_nothing_in_it(name: str, bases: dict[str, Path]) -> None:
    base, remote = bases[name], {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(base, **remote)
    assert (type(config), config.minicpmv_version.name) == (MiniCPMOConfig, name)
    assert type(AutoModel.from_pretrained(base, **remote)) is MiniCPMOForConditionalGeneration
    processor: Any = AutoProcessor.from_pretrained(base, **remote)
    assert (type(processor), processor.version.name) == (MiniCPMOProcessor, name)
    assert type(AutoTokenizer.from_pretrained(base, **remote)) is MiniCPMOTokenizerFast


@_BOTH
def test_its_config_comes_back_word_for_word(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    AutoConfig.from_pretrained(bases[name]).save_pretrained(tmp_path)
    assert fields_of(tmp_path) == fields_of(bases[name])


def test_what_the_file_says_of_speech_is_not_looked_at(base: Path) -> None:
    odd = {
        "audio_config": [1, {"num_hidden_layers": -1}],
        "tts_config": "?",
        "init_tts": {"attn_implementation": "x/y"},
    }
    (base / "config.json").write_text(json.dumps(fields_of(base) | odd), encoding="utf-8")
    config = AutoConfig.from_pretrained(base)
    assert {key: config.to_dict()[key] for key in odd} == odd


def test_the_config_class_of_the_v_models_does_not_take_the_inner_object_for_the_file(base: Path) -> None:
    assert fields_of(base)["slice_config"]["model_type"] == "minicpmv"
    told = "model_type: found 'minicpmo', expected 'minicpmv'"
    with pytest.raises(CheckpointError, match=told):
        MiniCPMVConfig.from_pretrained(base)
    with pytest.raises(CheckpointError, match=told):
        MiniCPMVForConditionalGeneration.from_pretrained(base)
    with pytest.raises(CheckpointError, match=told):
        MiniCPMVConfig(**fields_of(base))
    with pytest.raises(CheckpointError, match="found 'minicpmv', expected 'minicpmo'"):
        MiniCPMOConfig.from_pretrained(FIXTURES / "v4_5")


def test_it_computes_what_the_v_model_of_the_same_weights_computes(base: Path, tmp_path: Path) -> None:
    """Vision and language have the names and the numbers of V-4.5."""
    as_v = shutil.copytree(FIXTURES / "v4_5", tmp_path / "v")
    config = {key: value for key, value in fields_of(base).items() if key not in ("architectures", "auto_map")}
    (as_v / "config.json").write_text(json.dumps(config | {"model_type": "minicpmv"}), encoding="utf-8")
    own = {key: each for file in base.glob("*.safetensors") for key, each in load_file(file).items()}
    own = {key: each for key, each in own.items() if not key.startswith(SPEECH)}
    save_file(own, as_v / "model.safetensors", metadata={"format": "pt"})
    processor: Any = MiniCPMOProcessor.from_pretrained(base)
    parts = [{"type": "image", "image": picture(150, 80)}, {"type": "text", "text": "What's this?"}]
    inputs = processor.apply_chat_template([{"role": "user", "content": parts}])
    ours, theirs = (AutoModelForImageTextToText.from_pretrained(folder).eval() for folder in (base, as_v))
    with torch.no_grad():
        assert torch.equal(ours(**inputs).logits, theirs(**inputs).logits)


def test_frames_of_a_film_share_no_block(base: Path) -> None:
    processor: Any = MiniCPMOProcessor.from_pretrained(base)
    parts = [{"type": "image", "image": picture(50, 40, seed=seed)} for seed in range(2)]
    with pytest.raises(UsageError, match="openbmb/MiniCPM-o-4_5 has no video mode"):
        processor.apply_chat_template([{"role": "user", "content": parts}], temporal_ids=[[0, 1]])


# ---------------------------------------------------------------------------------------------- tokenizer, processor


def test_no_text_spells_a_token_of_speech(base: Path) -> None:
    """Whether or not the tokenizer's file calls it special."""
    processor: Any = MiniCPMOProcessor.from_pretrained(base)
    ids = processor.tokenizer.convert_tokens_to_ids(list(AUDIO_TOKENS))
    flags = [processor.tokenizer.added_tokens_decoder[each].special for each in ids]
    assert [text for text, flag in zip(AUDIO_TOKENS, flags, strict=True) if not flag] == [UNFLAGGED]
    for text in AUDIO_TOKENS:
        asked = [{"role": "user", "content": f"Say {text} twice."}, {"role": "assistant", "content": f"{text}{text}"}]
        made = processor.apply_chat_template(asked, continue_final_message=True)["input_ids"].flatten().tolist()
        assert not set(ids) & set(made), text
        assert text in processor.tokenizer.decode(made)


def test_a_processor_that_is_saved_alone_knows_its_release(base: Path, tmp_path: Path) -> None:
    MiniCPMOProcessor.from_pretrained(base).save_pretrained(tmp_path / "saved")
    processor: Any = MiniCPMVProcessor.from_pretrained(tmp_path / "saved")
    assert processor.version is VERSIONS["o-4.5"]
    (base / "preprocessor_config.json").unlink()
    assert MiniCPMOProcessor.from_pretrained(base).version is VERSIONS["o-4.5"]


def test_a_part_of_sound_is_refused_by_name(base: Path) -> None:
    processor: Any = MiniCPMOProcessor.from_pretrained(base)
    with pytest.raises(UsageError, match="this version reads pictures and text"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}])


# ---------------------------------------------------------------------------------------------------- carried tensors


@_BOTH
def test_a_loaded_model_is_saved_with_the_speech_of_its_checkpoint(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    model: Any = AutoModel.from_pretrained(bases[name], dtype=torch.bfloat16)
    assert not any(key.startswith(SPEECH) for key in model.state_dict())
    for _ in range(2):  # over itself, too
        model.save_pretrained(tmp_path / "saved")
        assert carried_in(tmp_path / "saved") == carried_in(bases[name])
    again: Any = AutoModel.from_pretrained(tmp_path / "saved")
    assert {key: tuple(each.shape) for key, each in again.state_dict().items()} == {
        key: tuple(each.shape) for key, each in model.state_dict().items()
    }
    files = sorted(path.name for path in (tmp_path / "saved").glob("model*"))
    assert files == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)] + ["model.safetensors.index.json"]


def test_it_is_not_saved_over_the_checkpoint_that_it_carries_from(base: Path) -> None:
    before = carried_in(base)
    with pytest.raises(UsageError, match="found the model that this one was loaded from"):
        AutoModel.from_pretrained(base).save_pretrained(base)
    assert carried_in(base) == before


def test_saving_says_so_where_the_checkpoint_is_gone(base: Path, tmp_path: Path) -> None:
    model: Any = AutoModel.from_pretrained(base)
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match=r"cannot be read .* expected the file that was there"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("other", ["apmx.weight", "llm.tts.weight", "tts"])
def test_other_tensors_are_unexpected_as_before(other: str, base: Path) -> None:
    file = base / "model-00003-of-00003.safetensors"
    save_file(load_file(file) | {other: torch.ones(1)}, file, metadata={"format": "pt"})
    index = json.loads((base / "model.safetensors.index.json").read_text(encoding="utf-8"))
    index["weight_map"][other] = file.name
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"1 unexpected.*\n.*\n +{other}"):
        AutoModel.from_pretrained(base)


def test_speech_is_unexpected_in_a_v_model(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "v4_5", tmp_path / "v")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"apm.conv1.bias": torch.ones(1)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 unexpected.*\n.*\n +apm\.conv1\.bias"):
        AutoModel.from_pretrained(folder)


def test_carried_tensors_are_found_in_headers_and_copied_in_pieces(base: Path, tmp_path: Path) -> None:
    files = find_weight_files(base)
    carried = find_carried(files, SPEECH)
    assert carried.num_bytes == sum(each.num_bytes for each in carried.tensors.values())
    (tmp_path / "whole").mkdir()
    save_file({"llm.x": torch.ones(3)}, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minicpmv.models.checkpoints.stored_tensors._CHUNK", 7)
        patch.setattr("minicpmv.models.checkpoints.carried._MOST_BYTES", 1500)
        carried.add_to(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("model-*.safetensors"))) > 3
    assert carried_in(tmp_path / "whole") == carried.facts()
    saved = {key for file in find_weight_files(tmp_path / "whole") for key in load_file(file)}
    assert saved == {"llm.x", *carried.tensors}


def test_a_file_that_is_cut_short_is_named(base: Path) -> None:
    carried = find_carried(find_weight_files(base), SPEECH)
    last = base / "model-00003-of-00003.safetensors"
    os.truncate(last, last.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors: found an end at byte"):
        carried.facts()


def test_an_expression_for_lora_does_not_reach_speech_on_the_released_class() -> None:
    written = r".*\.(q_proj|v_proj)"
    target = resolve_target(written, VERSIONS["o-4.5"].network)
    assert re.fullmatch(target, "llm.model.layers.0.self_attn.q_proj")
    assert re.fullmatch(target, "vpm.encoder.layers.0.self_attn.v_proj")
    for name in ("apm.layers.0.self_attn.q_proj", "tts.model.layers.0.self_attn.v_proj"):
        assert re.fullmatch(written, name)
        assert not re.fullmatch(target, name)
    assert resolve_target(written, VERSIONS["4.5"].network) == written


# ------------------------------------------------------------------------------------------------------------ assets


def test_assets_are_copied_whole_and_linked_where_they_can_be(base: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy_companions(base, tmp_path / "copy", dtype=None)
    assert assets_of(tmp_path / "copy") == assets_of(base)
    assert len(assets_of(base)) == 6
    assert (tmp_path / "copy/assets/Vocos.pt").samefile(base / "assets/Vocos.pt")
    # A copy over an earlier link does not write into the file that both share.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", _refuse)
        copy_companions(base, tmp_path / "copy", dtype=None)
    assert assets_of(tmp_path / "copy") == assets_of(base)
    assert not (tmp_path / "copy/assets/Vocos.pt").samefile(base / "assets/Vocos.pt")


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("another disk")


def test_files_of_a_download_cache_are_copied_through_their_links(base: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--o/snapshots/abc", tmp_path / "models--o/blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(base, snapshot)
    (snapshot / "assets/Vocos.pt").rename(blobs / "1234")
    (snapshot / "assets/Vocos.pt").symlink_to("../../../blobs/1234")
    (tmp_path / "copy").mkdir()
    copy_companions(snapshot, tmp_path / "copy", dtype=None)
    assert assets_of(tmp_path / "copy") == assets_of(base)
    assert not (tmp_path / "copy/assets/Vocos.pt").is_symlink()


@pytest.mark.parametrize("kind", ["file outside", "folder outside", "nowhere", "loop", "fifo", "the folder itself"])
def test_links_out_and_special_files_are_refused(kind: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    link = base / "assets" / "odd"
    if kind == "fifo":
        os.mkfifo(link)
    elif kind == "the folder itself":
        (base / "assets").rename(tmp_path / "moved")
        (base / "assets").symlink_to(tmp_path / "moved")
    else:
        target = {"file outside": "outside/file", "folder outside": "outside", "nowhere": "gone"}.get(kind)
        link.symlink_to(link if target is None else tmp_path / target)
    with pytest.raises(CheckpointError, match=r"is copied whole"):
        list(list_whole_folders(base))


def test_assets_are_not_listed_twice(base: Path) -> None:
    assert not any(path.parts[0] == "assets" for path in list_companions(base))
    assert {str(path) for path in list_whole_folders(base)} == set(assets_of(base))
    assert list(list_whole_folders(FIXTURES / "v4_5")) == []
