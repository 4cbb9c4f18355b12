"""``model.chat()``: arguments, defaults, streaming, refusals. Its answers are compared in tests/parity."""

from __future__ import annotations

import json
import shutil
import string
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoProcessor, AutoTokenizer

import minicpmv  # noqa: F401 # registers the model
from minicpmv.errors import UsageError
from minicpmv.models.answering.answers import end_token_ids
from minicpmv.models.answering.finite_logits import FiniteLogits
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokens.vocabulary import Vocabulary
from minicpmv.releases.table import VERSIONS as RELEASES
from tests.tiny import FIXTURES, conversation, picture

VERSIONS = {"v2": "2.0", "v2_5": "2.5", "v2_6": "2.6", "v4": "4.0", "v4_5": "4.5"}
GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 8}
QUESTION = "What is in the image?"


def load(version: str) -> Any:
    return AutoModel.from_pretrained(FIXTURES / version, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {version: load(version) for version in VERSIONS}


@pytest.fixture
def model(models: dict[str, Any]) -> Any:
    return models["v2_6"]


def watch(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note what ``generate`` is asked for."""
    asked: list[dict[str, Any]] = []
    generate = model.generate

    def watched(**given: Any) -> torch.Tensor:
        asked.append(given)
        return generate(**given)

    monkeypatch.setattr(model, "generate", watched, raising=False)
    return asked


def ids_seen(asked: list[dict[str, Any]]) -> list[Any]:
    return [given["input_ids"].tolist() for given in asked]


# How tokens are chosen

UNSET = {"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
DRAWN = UNSET | {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 100}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sampling", [True, False])
def test_defaults_are_the_released_ones(
    models: dict[str, Any], version: str, sampling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of 4.5's generation_config.json (top_k 20, temperature 0.6, do_sample) comes through."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        models[version], "generate", lambda **given: asked.append(given) or given["input_ids"], raising=False
    )
    models[version].chat(msgs=conversation(QUESTION), sampling=sampling)
    (given,) = asked
    expected = DRAWN if sampling else UNSET | {"num_beams": 3}
    assert {name: given[name] for name in expected} == expected
    watch_of_logits, penalty = given["logits_processor"]
    assert isinstance(watch_of_logits, FiniteLogits)
    assert penalty.penalty == ((1.03 if version == "v4_5" else 1.05) if sampling else 1.2)
    assert given["max_new_tokens"] == (1024 if version in ("v2", "v2_5") else 2048)
    assert "min_new_tokens" not in given


def test_a_thinking_answer_is_drawn_with_a_temperature_alone(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch(models["v4_5"], monkeypatch)
    answer = models["v4_5"].chat(msgs=conversation(QUESTION), enable_thinking=True, max_new_tokens=2)
    assert answer.startswith("<think>\n")
    expected = UNSET | {"do_sample": True, "temperature": 0.7}
    assert {name: asked[0][name] for name in expected} == expected
    assert [type(each) for each in asked[0]["logits_processor"]] == [FiniteLogits]


def test_a_checkpoint_s_generation_config_changes_nothing_that_chat_decides(model: Any) -> None:
    before = model.chat(msgs=conversation(QUESTION), **GREEDY)
    changed = load("v2_6")
    changed.generation_config.update(do_sample=True, temperature=9.0, top_k=400, repetition_penalty=5.0, num_beams=4)
    assert changed.chat(msgs=conversation(QUESTION), **GREEDY) == before


def test_keywords_reach_generate(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = watch(model, monkeypatch)
    model.chat(msgs=conversation(QUESTION), temperature=0.3, top_k=7, length_penalty=2.0, max_new_tokens=2)
    model.chat(msgs=conversation(QUESTION), min_new_tokens=3, max_new_tokens=3)
    assert {name: asked[0][name] for name in ("temperature", "top_k", "length_penalty", "top_p")} == {
        "temperature": 0.3,
        "top_k": 7,
        "length_penalty": 2.0,
        "top_p": 0.8,
    }
    assert asked[1]["min_new_tokens"] == 3
    with pytest.raises(ValueError, match="no_such_setting"):
        model.chat(msgs=conversation(QUESTION), no_such_setting=0.3)


def test_a_repetition_penalty_counts_the_answer_and_not_the_prompt(model: Any) -> None:
    """As in the released code, which gives its language model embeddings instead of the prompt's ids."""
    penalty, steps = 3.0, 8
    question = string.printable  # so much of the vocabulary that an answer repeats some of it
    processor = AutoProcessor.from_pretrained(FIXTURES / "v2_6")
    prompt = processor.apply_chat_template(conversation(question))["input_ids"]

    def draw(*, count_prompt: bool) -> str:
        ids = prompt
        for _ in range(steps):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, -1]
            said = (ids if count_prompt else ids[:, prompt.shape[1] :]).unique()
            logits[said] = torch.where(logits[said] > 0, logits[said] / penalty, logits[said] * penalty)
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        return processor.decode(ids[0, prompt.shape[1] :]).strip()

    given = GREEDY | {"repetition_penalty": penalty, "max_new_tokens": steps}
    assert model.chat(msgs=conversation(question), **given) == draw(count_prompt=False)
    assert draw(count_prompt=False) != draw(count_prompt=True)


# What is asked


def test_an_image_beside_the_messages_goes_before_the_first_text(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, image = watch(model, monkeypatch), picture()
    messages = conversation(QUESTION, "A cat.", "Which colour?")
    model.chat(image=image, msgs=messages, **GREEDY)
    model.chat(image=image, msgs=json.dumps(messages), **GREEDY)
    inside = [{"role": "user", "content": [image, QUESTION]}, *messages[1:]]
    model.chat(image=None, msgs=inside, **GREEDY)
    model.chat(image=image, msgs=inside, **GREEDY)  # scripts that give it twice mean it once
    first, *others = ids_seen(asked)
    assert others == [first] * 3
    assert messages == conversation(QUESTION, "A cat.", "Which colour?"), "what was given is left as it was"
    with pytest.raises(UsageError, match="found an image in image= and another in the first message"):
        model.chat(image=picture(seed=1), msgs=inside, **GREEDY)


def test_a_batch_takes_an_image_for_each_conversation(model: Any) -> None:
    image, msgs = picture(), [conversation(QUESTION), conversation("Hello world!"), conversation(QUESTION)]
    together = model.chat(image=[image, None, picture(seed=1)], msgs=msgs, **GREEDY)
    alone = [
        model.chat(image=shown, msgs=one, **GREEDY)
        for shown, one in zip([image, None, picture(seed=1)], msgs, strict=True)
    ]
    assert together == alone
    with pytest.raises(UsageError, match="found image=an Image for a batch"):
        model.chat(image=image, msgs=msgs, **GREEDY)
    with pytest.raises(UsageError, match=r"found image=1 for a batch.*\n  fix: put the images into msgs"):
        model.chat(image=[image], msgs=msgs, **GREEDY)


def test_a_system_prompt_is_a_system_message(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = watch(models["v2_5"], monkeypatch)
    models["v2_5"].chat(None, conversation("Hi"), system_prompt="Be brief.", **GREEDY)
    models["v2_5"].chat(None, [{"role": "system", "content": "Be brief."}, *conversation("Hi")], **GREEDY)
    assert ids_seen(asked)[0] == ids_seen(asked)[1]
    with pytest.raises(UsageError, match="found 'system', expected one of user, assistant"):
        models["v2"].chat(None, conversation("Hi"), system_prompt="Be brief.", **GREEDY)


def test_image_settings_reach_the_processor(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, msgs = watch(model, monkeypatch), [{"role": "user", "content": [picture(150, 80), QUESTION]}]
    model.chat(msgs=msgs, **GREEDY)
    model.chat(msgs=msgs, max_slice_nums=1, use_image_id=False, **GREEDY)
    assert [len(given["tgt_sizes"]) for given in asked] == [4, 1]
    assert "<image_id>" in AutoTokenizer.from_pretrained(FIXTURES / "v2_6").decode(asked[0]["input_ids"][0])
    assert "<image_id>" not in AutoTokenizer.from_pretrained(FIXTURES / "v2_6").decode(asked[1]["input_ids"][0])


@pytest.mark.parametrize("positional", [False, True])
def test_2_0_is_called_and_answers_as_in_its_examples(models: dict[str, Any], positional: bool) -> None:
    model, tokenizer, image = models["v2"], AutoTokenizer.from_pretrained(FIXTURES / "v2"), picture()
    msgs = conversation(QUESTION)
    if positional:
        res, context, settings = model.chat(image, msgs, None, tokenizer, **GREEDY)
    else:
        res, context, settings = model.chat(image=image, msgs=msgs, context=None, tokenizer=tokenizer, **GREEDY)
    assert context == [*msgs, {"role": "assistant", "content": res}]
    assert settings == {"num_beams": 1, "repetition_penalty": 1.0}
    res, context, _ = model.chat(image=image, msgs=[*context, *conversation("Why?")], context=context, **GREEDY)
    assert len(context) == 4


# Processor and tokenizer


def test_the_tokenizer_given_is_used_and_prepared_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Any] = []
    real = Vocabulary.__init__

    def counting(self: Any, tokenizer: Any, version: Any) -> None:
        prepared.append(tokenizer)
        real(self, tokenizer, version)

    monkeypatch.setattr(Vocabulary, "__init__", counting)
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "v2_6")
    processor = AutoProcessor.from_pretrained(FIXTURES / "v2_6")
    own = processor.tokenizer
    for _ in range(3):
        model.chat(None, conversation("Hi"), tokenizer, processor, **GREEDY)
    assert len(prepared) == 1
    assert prepared[0] is tokenizer
    assert processor.tokenizer is own
    model.chat(None, conversation("Hi"), processor=processor, **GREEDY)
    assert prepared[1] is own


def test_the_processor_is_found_once_and_is_no_part_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = load("v2_6"), []
    from_pretrained = MiniCPMVProcessor.from_pretrained
    monkeypatch.setattr(MiniCPMVProcessor, "from_pretrained", lambda path: found.append(path) or from_pretrained(path))
    keys = list(model.state_dict())
    for _ in range(2):
        model.chat(None, conversation("Hi"), AutoTokenizer.from_pretrained(FIXTURES / "v2_6"), **GREEDY)
    assert found == [str(FIXTURES / "v2_6")]
    assert list(model.state_dict()) == keys


def test_without_a_processor_to_be_found_the_way_out_is_named(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "v2_6" / file, tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with pytest.raises(UsageError, match=r"found no processor in .*\n  fix: pass processor="):
        model.chat(msgs=conversation("Hi"), **GREEDY)
    processor = AutoProcessor.from_pretrained(FIXTURES / "v2_6")
    assert model.chat(msgs=conversation("Hi"), processor=processor, **GREEDY)
    model.name_or_path = ""
    with pytest.raises(UsageError, match=r"found a model without name_or_path.*\n  fix: pass processor="):
        model.chat(msgs=conversation("Hi"), **GREEDY)


# Streaming


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pieces_of_a_stream_are_the_answer(models: dict[str, Any], version: str) -> None:
    whole = models[version].chat(picture(), conversation(QUESTION), **GREEDY)
    pieces = list(models[version].chat(picture(), conversation(QUESTION), stream=True, **GREEDY))
    assert "".join(pieces).strip() == (whole[0] if version == "v2" else whole)
    assert all(pieces)


def test_a_stream_begins_with_the_opening_of_thinking(models: dict[str, Any]) -> None:
    pieces = models["v4_5"].chat(None, conversation(QUESTION), enable_thinking=True, stream=True, **GREEDY)
    assert next(pieces) == "<think>\n"
    pieces.close()


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_token_is_not_part_of_the_answer(model: Any, stream: bool) -> None:
    end = AutoTokenizer.from_pretrained(FIXTURES / "v2_6").convert_tokens_to_ids("<|im_end|>")
    text = "".join(model.chat(None, conversation("Hi"), stream=stream, forced_eos_token_id=end, **GREEDY))
    assert text
    assert "<|im_end|>" not in text


def test_what_fails_while_streaming_is_raised_to_the_reader(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**given: Any) -> None:
        given["streamer"].put(given["input_ids"])
        given["streamer"].put(torch.tensor([302]))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", broken, raising=False)
    read: list[str] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        read.extend(model.chat(None, conversation("Hi"), stream=True))
    assert read == ["ho"]


def test_leaving_a_stream_ends_its_thread(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, drawn, generate = set(threading.enumerate()), [], model.generate

    def counting(**given: Any) -> torch.Tensor:
        generated = generate(**given)
        drawn.append(generated.shape[1] - given["input_ids"].shape[1])
        return generated

    monkeypatch.setattr(model, "generate", counting, raising=False)
    pieces = model.chat(None, conversation("Hi"), stream=True, min_new_tokens=2000, max_new_tokens=2000)
    next(pieces)
    pieces.close()
    assert drawn[0] < 2000
    assert set(threading.enumerate()) <= before


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stream": True, "sampling": False}, "found stream=True with 3 beams, expected num_beams=1"),
        ({"stream": True, "msgs": [conversation("Hi"), conversation("Hi")]}, "found stream=True for a batch"),
        ({"vision_hidden_states": [1]}, "found vision_hidden_states, expected None"),
        ({"enable_thinking": True}, "expected a version with a thinking mode"),
        ({"temporal_ids": [[0]], "image": picture()}, "openbmb/MiniCPM-V-2_6 has no video mode"),
        ({"msgs": "Hello"}, "msgs: found a string that is not JSON"),
        ({"msgs": None}, "msgs: found None, expected a list of messages"),
        ({"msgs": []}, "msgs: found \\[\\], expected a list of messages"),
        ({"msgs": [[], conversation("Hi")]}, "msgs\\[0\\]: found \\[\\], expected a list of messages"),
        ({"max_inp_length": 20}, "found a prompt of 2[0-9] tokens, 0 of them for images, expected .*max_inp_length=20"),
    ],
)
def test_what_cannot_work_is_refused(model: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.chat(**{"msgs": conversation("Hi"), **given})


def test_a_prompt_may_be_as_long_as_allowed_and_is_never_cut(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, msgs = watch(model, monkeypatch), [{"role": "user", "content": [picture(150, 80), QUESTION]}]
    model.chat(msgs=msgs, **GREEDY)
    length = asked[0]["input_ids"].shape[1]
    model.chat(msgs=msgs, max_inp_length=length, **GREEDY)
    with pytest.raises(UsageError, match=f"a prompt of {length} tokens, 16 of them for images"):
        model.chat(msgs=msgs, max_inp_length=length - 1, **GREEDY)


# Around the model


# PEFT 0.21 asks transformers by its old name; may go with the PEFT release that asks by the new one.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapted_and_a_halved_model_chat_as_well(model: Any) -> None:
    msgs = [{"role": "user", "content": [picture(), QUESTION]}]
    adapted = get_peft_model(load("v2_6"), LoraConfig(target_modules=r".*llm.*q_proj")).eval()
    assert adapted.chat(msgs=msgs, **GREEDY) == model.chat(msgs=msgs, **GREEDY), "a fresh LoRA changes nothing"
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    assert adapted.chat(msgs=msgs, **GREEDY) != model.chat(msgs=msgs, **GREEDY)
    assert isinstance(load("v2_6").half().chat(msgs=msgs, **GREEDY), str)
    assert isinstance(load("v4_5").to(torch.bfloat16).chat(msgs=msgs, **GREEDY), str)


def test_an_answer_ends_at_tokens_that_the_tokenizer_has() -> None:
    """4.0's list holds more than one vocabulary's; what a tokenizer does not have must not end answers at <unk>."""
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "v4")
    assert "</s>" in RELEASES["4.0"].reading.terminators
    ends = end_token_ids(tokenizer, RELEASES["4.0"])
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]
