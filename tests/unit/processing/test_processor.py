from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from minicpmv.errors import CheckpointError, ConfigError, UsageError
from minicpmv.models.versions import VERSIONS
from minicpmv.processing.chat import ImageRef, Turn
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.images import ImageError
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.released_tokenizers import LlamaTokenizerWrapper, MiniCPMVTokenizerFast
from tests.parity.cases import FIXTURES
from tests.unit.processing.conftest import MODELS

WIDE = Image.effect_noise((150, 80), 90).convert("RGB")
MESSAGES = [{"role": "user", "content": [{"type": "image", "image": WIDE}, {"type": "text", "text": "What? Hello!"}]}]


def same_behaviour(one: MiniCPMVProcessor, other: MiniCPMVProcessor) -> bool:
    first, second = one.apply_chat_template(MESSAGES), other.apply_chat_template(MESSAGES)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, with a trap in every file of code that its configs name."""
    folder = tmp_path / request.param
    folder.mkdir()
    for file in (FIXTURES / request.param).iterdir():
        if file.suffix in (".json", ".model", ".txt") and file.stat().st_size < 100_000:
            shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize(("trust_remote_code", "trap"), [(None, False), (False, False), (True, False), (True, True)])
def test_auto_classes_load_our_code_and_never_that_of_the_directory(
    model: Path, trust_remote_code: bool | None, trap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(prompt: str = "") -> str:
        raise AssertionError(f"asked: {prompt}")

    monkeypatch.setattr("builtins.input", ask)
    names = "configuration_minicpm modeling_minicpmv tokenization_minicpmv_fast processing_minicpmv"
    for name in (*names.split(), "image_processing_minicpmv") if trap else ():
        (model / f"{name}.py").write_text("raise AssertionError('code of the directory was run')", encoding="utf-8")
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    image_processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    assert type(processor) is MiniCPMVProcessor
    assert type(image_processor) is MiniCPMVImageProcessor
    assert type(tokenizer) is (LlamaTokenizerWrapper if model.name == "v2" else MiniCPMVTokenizerFast)
    assert type(tokenizer) is type(processor.tokenizer)
    assert image_processor.to_dict() == processor.image_processor.to_dict()


def test_version_and_sizes_are_the_checkpoints(processors: dict[str, MiniCPMVProcessor]) -> None:
    assert {name: one.version.name for name, one in processors.items()} == {"v2": "2.0", "v2_5": "2.5", "v2_6": "2.6"}
    assert {name: one.query_num for name, one in processors.items()} == {"v2": 4, "v2_5": 6, "v2_6": 4}
    assert {name: one.use_image_id for name, one in processors.items()} == {"v2": False, "v2_5": False, "v2_6": True}
    for processor in processors.values():
        config = processor.image_processor.slice_config()
        assert (config.scale_resolution, config.patch_size, config.max_slice_nums) == (56, 14, 4)


def test_saved_processor_behaves_the_same_without_the_source_and_without_config(model: Path, tmp_path: Path) -> None:
    """An adapter's directory has no config.json; the release must be told by the processor's own files."""
    processor = MiniCPMVProcessor.from_pretrained(model)
    source = model.rename(tmp_path / "moved")
    processor.save_pretrained(tmp_path / "out")
    shutil.rmtree(source)
    again = MiniCPMVProcessor.from_pretrained(tmp_path / "out")
    assert again.version is processor.version
    assert type(again.tokenizer) is type(processor.tokenizer)
    assert same_behaviour(again, processor)
    again.save_pretrained(tmp_path / "twice")
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes(), file.name


def test_saved_files_have_the_released_layout(model: Path, tmp_path: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(model)
    processor.save_pretrained(tmp_path / "out")
    name = "preprocessor_config.json"
    if model.name != "v2":  # which has none
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((model / name).read_text())
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    released = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    missing_or_changed = {key for key in released if saved.get(key) != released[key]}
    # What 5.x's own defaults say alike; nothing that a reader of the released files looks for.
    assert missing_or_changed <= {"legacy", "split_special_tokens"}, missing_or_changed
    maps = [json.loads((folder / "special_tokens_map.json").read_text()) for folder in (tmp_path / "out", model)]
    plain = [
        {key: value["content"] if isinstance(value, dict) else value for key, value in one.items()} for one in maps
    ]
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        assert plain[0][key] == plain[1][key]
    assert (tmp_path / "out" / "tokenizer.model").exists() == (model.name == "v2")


def test_chat_template_of_the_tokenizer_stays_usable(model: Path, tmp_path: Path) -> None:
    if model.name == "v2":
        pytest.skip("the released 2.0 tokenizer has none")
    processor = MiniCPMVProcessor.from_pretrained(model)
    processor.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == processor.tokenizer.chat_template == processor.chat_template
    messages = [{"role": "user", "content": "What?"}]
    text = again.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == processor.apply_chat_template(messages, tokenize=False)
    ids = again.encode(text, add_special_tokens=False)
    assert ids == processor.apply_chat_template(messages)["input_ids"][0].tolist()


def test_tokenizer_json_of_an_old_converter_is_not_read(model: Path) -> None:
    if model.name != "v2":
        pytest.skip("2.0 only")
    expected = MiniCPMVProcessor.from_pretrained(model)
    shutil.copy(FIXTURES / "v2_6" / "tokenizer.json", model)
    assert same_behaviour(MiniCPMVProcessor.from_pretrained(model), expected)
    assert AutoTokenizer.from_pretrained(model).encode("Hello") == expected.tokenizer.encode("Hello")


def test_settings_can_be_given_when_loading(model: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(model, max_slice_nums=1)
    assert len(processor.apply_chat_template(MESSAGES)["tgt_sizes"]) == 1
    assert (
        len(MiniCPMVProcessor.from_pretrained(model).apply_chat_template(MESSAGES, max_slice_nums=2)["tgt_sizes"]) == 3
    )


def test_version_stated_by_config_wins_and_is_kept(tmp_path: Path) -> None:
    """4.5's released preprocessor_config.json says 2.6."""
    image_processor = MiniCPMVImageProcessor.from_pretrained(FIXTURES / "v2_6")
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "v2_6")
    processor = MiniCPMVProcessor(image_processor, tokenizer, version=VERSIONS["4.0"])
    processor.save_pretrained(tmp_path)
    assert MiniCPMVProcessor.from_pretrained(tmp_path).version is VERSIONS["4.0"]
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["version"] == 2.6


def test_pickled_processor_behaves_the_same(processor: MiniCPMVProcessor) -> None:
    """Data loading in other processes pickles it."""
    assert same_behaviour(pickle.loads(pickle.dumps(processor)), processor)  # noqa: S301


def test_added_tokens_are_seen() -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    before = processor.encode_conversation((Turn("user", ("a <dog> b",)),)).input_ids
    processor.tokenizer.add_tokens(["<dog>"])
    after = processor.encode_conversation((Turn("user", ("a <dog> b",)),)).input_ids
    assert processor.tokenizer.convert_tokens_to_ids("<dog>") in after
    assert before != after


def test_decoding_passes_to_the_tokenizer(processor: MiniCPMVProcessor) -> None:
    ids = processor.tokenizer.encode("Hello you", add_special_tokens=False)
    assert processor.decode(ids) == "Hello you"
    assert processor.batch_decode([ids, ids]) == ["Hello you"] * 2


def test_return_types_are_as_asked(processor: MiniCPMVProcessor) -> None:
    ids = processor.apply_chat_template(MESSAGES)["input_ids"]
    assert (ids.dtype, ids.ndim) == (torch.int64, 2)
    assert processor.apply_chat_template(MESSAGES, return_tensors="np")["input_ids"].tolist() == ids.tolist()
    assert processor.apply_chat_template(MESSAGES, return_tensors=None)["input_ids"] == ids.tolist()
    assert processor.apply_chat_template(MESSAGES, return_dict=False).tolist() == ids.tolist()
    with pytest.raises(UsageError, match="return_tensors: found 'tf'"):
        processor.apply_chat_template(MESSAGES, return_tensors="tf")


def test_image_processor_alone_gives_the_same_pixels(processor: MiniCPMVProcessor) -> None:
    inputs = processor.apply_chat_template(MESSAGES)
    alone = processor.image_processor(WIDE, return_tensors="pt")
    assert torch.equal(alone["pixel_values"], inputs["pixel_values"])
    assert torch.equal(alone["tgt_sizes"], inputs["tgt_sizes"])


@pytest.mark.parametrize("conversation", [[], "hi", {"role": "user", "content": "a"}])
def test_what_is_no_conversation_is_refused(processor: MiniCPMVProcessor, conversation: object) -> None:
    with pytest.raises(UsageError, match="expected a list of messages"):
        processor.apply_chat_template(conversation)  # pyright: ignore[reportArgumentType]


def test_mixed_batch_is_refused_and_errors_name_the_conversation(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(UsageError, match="found messages and lists of messages side by side"):
        processor.apply_chat_template([MESSAGES[0], MESSAGES])
    with pytest.raises(UsageError, match=r"conversation\[1\]\[0\].role: found 'me'"):
        processor.apply_chat_template([MESSAGES, [{"role": "me", "content": "a"}]])


def test_bare_call_says_what_to_write_instead(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(UsageError, match=r"fix: processor\.apply_chat_template"):
        processor(text="What?", images=WIDE)


def test_missing_image_is_named(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: found no such file"):
        processor.encode_conversation((Turn("user", (ImageRef(0),)),), ["gone.png"])


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found neither preprocessor_config\.json nor a config\.json of MiniCPM"):
        MiniCPMVProcessor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="found neither"):
        MiniCPMVProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="image processor"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_lost_tokenizer_model_is_named(model: Path) -> None:
    if model.name != "v2":
        pytest.skip("2.0 only")
    (model / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"expected MiniCPM-V-2's tokenizer\.model"):
        MiniCPMVProcessor.from_pretrained(model)


def test_impossible_slicing_is_found_when_loading(model: Path) -> None:
    with pytest.raises(ConfigError, match="max_slice_nums: found 0"):
        MiniCPMVProcessor.from_pretrained(model, max_slice_nums=0)


@pytest.mark.parametrize("first", ["minicpmv.processing.processor", "minicpmv.models.configuration"])
def test_our_modules_may_be_imported_before_transformers(first: str) -> None:
    """They import transformers, whose import registers them: while they are half imported themselves."""
    code = (
        f"import {first}\nfrom transformers import AutoProcessor\n"
        f"print(type(AutoProcessor.from_pretrained({str(FIXTURES / 'v2_6')!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "MiniCPMVProcessor", done.stderr
