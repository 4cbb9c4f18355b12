"""Answers to held-out questions, taken as a run goes: written once each, as chat gives them, and changing nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.inference.chat import Conversation
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import load_model
from minicpmv.training.monitoring.samples import Samples
from tests.run.training import flags, make_data, read_samples, run_here, same_bytes
from tests.tiny import FIXTURES, conversation, write_data

_ADAPTER = "adapter_model.safetensors"
# Dropout would draw other numbers after an answer that drew one; checkpointing keeps no cache while it trains.
_LORA = ["--use_lora", "--lora_r", "4", "--lora_dropout", "0.3", "--activation_checkpointing", "true"]
_EVALUATED = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "5"]
_ASKED = ["--eval_samples", "2", "--eval_sample_tokens", "8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def asked(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that is asked before the first and after every second."""
    output = tmp_path_factory.mktemp("asked")
    run_here(flags(data, output, *_LORA, *_EVALUATED, *_ASKED, "--eval_data_path", data))
    return output


def test_each_question_is_answered_at_the_start_and_at_every_evaluation(asked: Path, data: str) -> None:
    samples = read_samples(asked)
    assert [(sample["step"], sample["record"]) for sample in samples] == [
        (step, f"{data}:{line} record {line - 2} (id '{line - 2}')") for step in (0, 2, 4) for line in (2, 3)
    ]
    assert samples[1]["question"] == "What's this?"
    assert samples[1]["expected"] == "word word word word "
    assert samples[1]["images"] == [str(Path(data).parent / "1.png")]
    assert len({sample["answer"] for sample in samples}) > 1, "it learns"


def test_answers_are_those_of_chat(asked: Path) -> None:
    loaded = load_model(asked)
    for sample in read_samples(asked)[-2:]:
        conversation = Conversation(loaded, settings=GenerationSettings(max_new_tokens=8))
        assert conversation.ask(sample["question"], sample["images"]) == sample["answer"]


def test_asking_does_not_change_training(asked: Path, data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, *_LORA, *_EVALUATED, "--eval_data_path", data, "--eval_samples", "0"))
    assert same_bytes(tmp_path / _ADAPTER, asked / _ADAPTER)
    assert not (tmp_path / "samples.jsonl").exists()


def test_resumed_run_answers_again_what_came_after_its_checkpoint(asked: Path, data: str, tmp_path: Path) -> None:
    """The first run had been killed after its second evaluation, and before the checkpoint of that step."""
    shutil.copytree(asked / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(asked / "samples.jsonl", tmp_path)
    extra = [*_LORA, *_EVALUATED, *_ASKED, "--eval_data_path", data, "--resume_from_checkpoint", "true"]
    run_here(flags(data, tmp_path, *extra))
    assert read_samples(tmp_path) == read_samples(asked)


def test_only_the_first_question_is_asked(tmp_path: Path) -> None:
    """Of a record that begins with an instruction and goes on after its first answer."""
    turns = [{"role": "system", "content": "Be brief."}, *conversation("First?", "One.", "Second?", "Two.")]
    data = write_data(tmp_path / "held_out.json", [{"id": "0", "conversations": turns}])
    loaded = load_model(FIXTURES / "v2_6")
    dataset = ConversationDataset(load_records(data), loaded.processor, max_length=2048)
    samples = Samples([dataset], num_records=3, max_new_tokens=4, batch_size=2, path=tmp_path / "samples.jsonl")
    (told,) = samples.take(loaded.model, step=7, is_leader=True)
    (sample,) = read_samples(tmp_path)
    assert told.startswith("sample at step 7: 'First?' -> ")
    assert (sample["question"], sample["expected"], sample["images"]) == ("First?", "One.", [])
    settings = GenerationSettings(max_new_tokens=4)
    assert sample["answer"] == Conversation(loaded, settings=settings, system="Be brief.").ask("First?")
    assert samples.take(loaded.model, step=7, is_leader=True) == [], "once for each step"
