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
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from minicpmv.errors import CheckpointError, ConfigError, ImageError, UsageError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.processing.tokens.released_tokenizers import LlamaTokenizerWrapper, MiniCPMVTokenizerFast
from minicpmv.releases.table import VERSIONS
from tests.parity.cases import FIXTURES
from tests.unit.processing.conftest import MODELS

WIDE = Image.effect_noise((150, 80), 90).convert("RGB")
MESSAGES = [{"role": "user", "content": [{"type": "image", "image": WIDE}, {"type": "text", "text": "What? Hello!"}]}]


def same_behaviour(one: MiniCPMVProcessor, other: MiniCPMVProcessor) -> bool:
    first, second = one.apply_chat_template(MESSAGES), other.apply_chat_template(MESSAGES)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy without weights."""
    folder = tmp_path / request.param
    folder.mkdir()
    for file in (FIXTURES / request.param).iterdir():
        if file.suffix in (".json", ".model", ".txt") and file.stat().st_size < 100_000:
            shutil.copy(file, folder)
    return folder


CODE = "configuration_minicpm modeling_minicpmv resampler tokenization_minicpmv_fast processing_minicpmv"


@pytest.mark.parametrize("trap", [False, True])
@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_auto_classes_load_our_code_and_never_that_of_the_directory(
    model: Path, trust_remote_code: bool | None, trap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers copies a directory's code before it imports it, so that an empty folder of copies tells."""
    copies = tmp_path / "copies"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(copies))

    def ask(prompt: str = "") -> str:
        raise AssertionError(f"asked: {prompt}")

    monkeypatch.setattr("builtins.input", ask)
    for name in (*CODE.split(), "image_processing_minicpmv") if trap else ():
        (model / f"{name}.py").write_text("raise RuntimeError('code of the directory was run')", encoding="utf-8")
    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    image_processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    with pytest.raises((UsageError, OSError)):  # OSError: 2.0 has no file in which transformers would look
        AutoVideoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    assert not list(copies.rglob("*.py"))
    assert type(config) is MiniCPMVConfig
    assert type(processor) is MiniCPMVProcessor
    assert type(image_processor) is MiniCPMVImageProcessor
    assert type(tokenizer) is (LlamaTokenizerWrapper if model.name == "v2" else MiniCPMVTokenizerFast)
    assert type(tokenizer) is type(processor.tokenizer)
    assert image_processor.to_dict() == processor.image_processor.to_dict()


def test_version_and_sizes_are_the_checkpoints(processors: dict[str, MiniCPMVProcessor]) -> None:
    assert list(processors) == ["v2", "v2_5", "v2_6", "v4", "v4_5"]
    assert [one.version.name for one in processors.values()] == ["2.0", "2.5", "2.6", "4.0", "4.5"]
    assert [one.query_num for one in processors.values()] == [4, 6, 4, 5, 4]
    assert [one.use_image_id for one in processors.values()] == [False, False, True, True, True]
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
        # These two say 2.6; without a config.json beside it, nobody could tell.
        more = {"v4": {"minicpmv_version": "4.0"}, "v4_5": {"minicpmv_version": "4.5"}}.get(model.name, {})
        released = json.loads((model / name).read_text())
        assert json.loads((tmp_path / "out" / name).read_text()) == released | more
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    released = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    missing_or_changed = {key for key in released if saved.get(key) != released[key]}
    # What 5.x's own defaults say alike; nothing that a reader of the released files looks for.
    assert missing_or_changed <= {"legacy", "split_special_tokens"}, missing_or_changed
    maps = [json.loads((folder / "special_tokens_map.json").read_text()) for folder in (tmp_path / "out", model)]
    plain = [
        {key: value["content"] if isinstance(value, dict) else value for key, value in one.items()} for one in maps
    ]
    for key in {"bos_token", "eos_token", "unk_token", "pad_token"} & plain[1].keys():  # 4.5 names no bos there
        assert plain[0][key] == plain[1][key]
    assert (tmp_path / "out" / "tokenizer.model").exists() == (model.name == "v2")


@pytest.mark.parametrize("model", [name for name in MODELS if name != "v2"], indirect=True)  # which has none
def test_chat_template_of_the_tokenizer_stays_usable(model: Path, tmp_path: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(model)
    processor.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == processor.tokenizer.chat_template == processor.chat_template
    messages = [{"role": "user", "content": "What?"}]
    # The processor's default is chat()'s; where the format knows no such switch, the template ignores it.
    text = again.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == processor.apply_chat_template(messages, tokenize=False)
    ids = again.encode(text, add_special_tokens=False)
    assert ids == processor.apply_chat_template(messages)["input_ids"][0].tolist()


@pytest.mark.parametrize("model", ["v2"], indirect=True)
def test_tokenizer_json_of_an_old_converter_is_not_read(model: Path) -> None:
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


@pytest.mark.parametrize(("name", "version"), [("v4", "4.0"), ("v4_5", "4.5")])
def test_config_decides_where_the_preprocessor_file_says_otherwise(name: str, version: str, tmp_path: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / name)
    assert processor.image_processor.version == 2.6
    assert processor.version is VERSIONS[version]
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["version"], saved["minicpmv_version"]) == (2.6, version)
    assert MiniCPMVProcessor.from_pretrained(tmp_path).version is VERSIONS[version]


def test_saved_tokenizer_gives_the_same_ids(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(again) == len(tokenizer)
    assert again.get_vocab() == tokenizer.get_vocab()
    texts = [
        "",
        " a  b\n\n",
        "!!<box>1</box>",
        "<image><unk></image>",
        "<think>\n\n</think>\n\né 猫 🐈",
        "<|im_end|></s>",
    ]
    for text in texts:
        for special in (True, False):
            ids = tokenizer.encode(text, add_special_tokens=special)
            assert again.encode(text, add_special_tokens=special) == ids
            assert again.decode(ids) == tokenizer.decode(ids)
            assert again.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


def test_version_stated_by_config_wins_and_is_kept(tmp_path: Path) -> None:
    """Even where the preprocessor's file belongs to another release."""
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


def test_tokenize_written_out_gives_lists_as_long_as_each_prompt(processor: MiniCPMVProcessor) -> None:
    """As transformers' own processors do: TRL takes such rows for ids, and padding in them for tokens of the prompt."""
    batch = [MESSAGES, [{"role": "user", "content": "Hi"}]]
    alone = [processor.apply_chat_template(each)["input_ids"][0].tolist() for each in batch]
    assert len(alone[0]) != len(alone[1])
    for found in (
        processor.apply_chat_template(batch, tokenize=True, return_dict=True),
        processor.apply_chat_template(batch, return_tensors=None, padding=False),
    ):
        assert found["input_ids"] == alone
        assert found["attention_mask"] == [[1] * len(ids) for ids in alone]
        assert [sum(row) for row in found["image_mask"]] == [len(found["tgt_sizes"]) * processor.query_num, 0]
    assert processor.apply_chat_template(batch, tokenize=True, return_dict=False) == alone
    padded = processor.apply_chat_template(batch, tokenize=True, padding=True)["input_ids"]
    assert padded == processor.apply_chat_template(batch)["input_ids"].tolist()
    assert torch.is_tensor(processor.apply_chat_template(batch, tokenize=True, return_tensors="pt")["input_ids"])


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


@pytest.mark.parametrize("model", ["v2"], indirect=True)
def test_lost_tokenizer_model_is_named(model: Path) -> None:
    (model / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"expected MiniCPM-V-2's tokenizer\.model"):
        MiniCPMVProcessor.from_pretrained(model)


def test_impossible_slicing_is_found_when_loading(model: Path) -> None:
    with pytest.raises(ConfigError, match="max_slice_nums: found 0"):
        MiniCPMVProcessor.from_pretrained(model, max_slice_nums=0)


@pytest.mark.parametrize(
    "first",
    # tests/docs/test_light_imports.py loads a model directory in both orders by default.
    [
        pytest.param(f"minicpmv.{name}", marks=pytest.mark.slow)
        for name in ("processing.processor", "models.configuration")
    ],
)
def test_our_modules_may_be_imported_before_transformers(first: str) -> None:
    """They import transformers, whose import registers them: while they are half imported themselves."""
    code = (
        f"import {first}\nfrom transformers import AutoProcessor\n"
        f"print(type(AutoProcessor.from_pretrained({str(FIXTURES / 'v2_6')!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "MiniCPMVProcessor", done.stderr


@pytest.mark.parametrize("model", ["v2_6", "v4"], indirect=True)
def test_an_instruction_that_nobody_gave_is_written_if_the_checkpoint_s_template_has_it(model: Path) -> None:
    """4.0's own template was not at hand: whether it has Qwen2's instruction, its tokenizer_config.json says."""
    processor = MiniCPMVProcessor.from_pretrained(model)
    messages = [{"role": "user", "content": "What?"}]
    instruction = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    asked = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    assert processor.apply_chat_template(messages, tokenize=False) == instruction + asked
    processor.tokenizer.chat_template = "{% for turn in messages %}...{% endfor %}"
    assert processor.apply_chat_template(messages, tokenize=False) == asked
    trained = processor.encode_text([Turn("user", ("What?",)), Turn("assistant", ("ok",))])
    assert trained.input_ids.count(processor.vocabulary["<|im_start|>"]) == 2, "training text follows the prompt"


@pytest.mark.parametrize("model", ["v2", "v2_5"], indirect=True)
def test_numbers_of_images_are_refused_where_there_are_no_tokens_for_them(model: Path) -> None:
    processor = MiniCPMVProcessor.from_pretrained(model)
    messages = [{"role": "user", "content": "What?"}]
    with pytest.raises(UsageError, match="use_image_id: found True, expected False or nothing"):
        processor.apply_chat_template(messages, use_image_id=True)
    processor.apply_chat_template(messages, use_image_id=False)


@pytest.mark.parametrize("model", ["v4_6", "v4_7"])
def test_files_of_4_6_and_later_keep_their_names_and_classes(model: str, tmp_path: Path) -> None:
    """So that transformers reads them without this package."""
    MiniCPMVProcessor.from_pretrained(FIXTURES / model, downsample_mode="4x").save_pretrained(tmp_path)
    names = ("chat_template.jinja", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    before, after = (
        {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in names[1:]}
        for folder in (FIXTURES / model, tmp_path)
    )
    assert after["preprocessor_config.json"] == before["preprocessor_config.json"] | {"downsample_mode": "4x"}
    assert after["tokenizer_config.json"] == before["tokenizer_config.json"]
    assert after["tokenizer.json"]["model"] == before["tokenizer.json"]["model"]
    assert after["tokenizer.json"]["added_tokens"] == before["tokenizer.json"]["added_tokens"]
    assert (tmp_path / names[0]).read_bytes() == (FIXTURES / model / names[0]).read_bytes()


def test_the_mode_decides_units_and_tokens() -> None:
    sizes = {}
    for mode in ("16x", "4x"):
        processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v4_6", downsample_mode=mode, scale_resolution=448)
        sizes[mode] = (
            processor.image_processor.slice_config().unit,
            processor.tokens_of(processor.image_processor.plan((448, 448))),
        )
    assert sizes == {"16x": (56, [64]), "4x": (28, [256])}


def test_prompts_of_4_7_are_padded_on_the_left_with_their_positions() -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v4_7")
    chats = [[{"role": "user", "content": text}] for text in ("What?", "What do you see there?")]
    alone = [processor.apply_chat_template(chat) for chat in chats]
    batch = processor.apply_chat_template(chats)
    assert batch["mrope_position_ids"].shape == (3, *batch["input_ids"].shape)
    for row, single in enumerate(alone):
        length = single["input_ids"].shape[1]
        assert batch["mrope_position_ids"][:, row, -length:].equal(single["mrope_position_ids"][:, 0])
        assert not batch["mrope_position_ids"][:, row, :-length].any()
    assert "mrope_position_ids" not in MiniCPMVProcessor.from_pretrained(FIXTURES / "v4_6").apply_chat_template(chats)


@pytest.mark.parametrize(("key", "token"), [("image_token_id", "<|image_pad|>"), ("newline_id", "\n")])
def test_an_id_that_config_and_tokenizer_state_differently_is_refused(key: str, token: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    big = shutil.ignore_patterns("*.safetensors", "images", "cases*", "prompts*", "grids*", "packed*")
    shutil.copytree(FIXTURES / "v4_7", folder, ignore=big)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: 5}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{key}: found 5 in config\.json and \d+ in the tokenizer") as refused:
        MiniCPMVProcessor.from_pretrained(folder)
    assert f"expected one id for {token!r}" in str(refused.value)


@pytest.mark.parametrize("model", ["v4_6", "v4_7"])
def test_place_holders_that_are_typed_stay_text(model: str) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / model)
    typed = "Say <|image_pad|> and <|video_pad|> and <|im_end|>"
    ids = processor.apply_chat_template([{"role": "user", "content": typed}])["input_ids"][0].tolist()
    markup = processor.version.reading.markup
    assert not {processor.vocabulary[token] for token in (markup.slot, markup.frame_slot or "")} & set(ids)
    assert typed in processor.tokenizer.decode(ids)
