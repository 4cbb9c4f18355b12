"""Questions of one batch: each has its own settings, and none notices the others."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest

from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.serving.answers.batch import Event, Finished, Question, answer_together
from minicpmv.serving.answers.sampling import Drawing
from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.errors import RequestError
from minicpmv.serving.requests.chat_request import ChatRequest
from minicpmv.serving.requests.prompt import Prompt, prepare
from minicpmv.serving.requests.request_images import Picture
from minicpmv.serving.settings import ServerSettings
from tests.tiny import FIXTURES, picture


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(FIXTURES / "v4_5")


def prompt_of(loaded: LoadedModel, *content: str | ImageRef, length: int, thinking: bool = False) -> Prompt:
    addresses: list[str] = []
    turns = [Turn("user", content)]
    chat = ChatRequest(
        model="m", turns=turns, addresses=addresses, films=[], max_tokens=length, enable_thinking=thinking
    )
    if ImageRef(0) in content:
        file = io.BytesIO()
        picture(150, 80).save(file, "PNG")
        addresses.append(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}")
    return prepare(chat, loaded, ServerSettings())


def ask(
    loaded: LoadedModel, *prompts: Prompt, on_event: Callable[[int, Question, Event], None] | None = None, **own: Any
) -> list[list[Event]]:
    """Answer prompts in one batch; ``own`` holds one value for each, of a question's field."""
    told: list[list[Event]] = [[] for _ in prompts]
    questions: list[Question] = []
    for number, prompt in enumerate(prompts):

        def deliver(event: Event, number: int = number) -> None:
            told[number].append(event)
            if on_event is not None:
                on_event(number, questions[number], event)

        fields = {name: values[number] for name, values in own.items()}
        questions.append(Question(model="m", prompt=prompt, deliver=deliver, **fields))
    answer_together(ServedModels(loaded, {"m": None}), questions)
    return told


def said(events: list[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


def test_every_row_is_answered_as_alone(loaded: LoadedModel) -> None:
    """Different lengths, a picture, thinking, a stop and a drawn answer."""
    prompts = [
        prompt_of(loaded, "Hi!", length=3),
        prompt_of(loaded, ImageRef(0), "What is this?", length=9),
        prompt_of(loaded, "Why?", length=6, thinking=True),
        prompt_of(loaded, "Hi!", length=20),
        prompt_of(loaded, "Hi!", length=8),
    ]
    stop = said(ask(loaded, prompts[3])[0])[5:8]
    stops = [(), (), (), (stop,), ()]
    drawings = [*[Drawing()] * 4, Drawing(temperature=1.0, seed=3)]
    together = ask(loaded, *prompts, stops=stops, drawing=drawings)
    alone = [
        ask(loaded, prompt, stops=[stop], drawing=[drawing])[0]
        for prompt, stop, drawing in zip(prompts, stops, drawings, strict=True)
    ]
    assert together == alone
    assert [events[-1] for events in together[:3]] == [Finished("length", n) for n in (3, 9, 6)]
    ended = together[3][-1]
    assert isinstance(ended, Finished)
    assert (ended.reason, ended.num_tokens < 20) == ("stop", True)
    assert together[2][0] == "<think>\n"


def test_greedy_rows_say_what_chat_says(loaded: LoadedModel) -> None:
    for thinking in (False, True):
        settings = GenerationSettings(max_new_tokens=12, enable_thinking=thinking)
        chatted = answer(loaded, [{"role": "user", "content": "What is it?"}], settings=settings)
        (events,) = ask(loaded, prompt_of(loaded, "What is it?", length=12, thinking=thinking))
        assert said(events) == chatted


def test_a_damaged_image_fails_alone(loaded: LoadedModel) -> None:
    whole = prompt_of(loaded, ImageRef(0), "What is this?", length=3)
    cut = Prompt(
        turns=whole.turns,
        pictures=[Picture(whole.pictures[0].content[:-3000], whole.pictures[0].size)],
        num_tokens=whole.num_tokens,
        max_new_tokens=3,
        max_slice_nums=None,
        enable_thinking=False,
    )
    broken, fine = ask(loaded, cut, whole)
    (error,) = broken
    assert isinstance(error, RequestError)
    assert (error.status, "cannot be decoded" in error.message) == (400, True)
    assert fine == ask(loaded, whole)[0]


def test_a_batch_ends_when_nobody_waits_for_it(loaded: LoadedModel) -> None:
    def leave(number: int, question: Question, event: Event) -> None:
        question.is_abandoned = True

    first, second = ask(loaded, *[prompt_of(loaded, "Hi!", length=500)] * 2, on_event=leave)
    assert len(first) == len(second) == 1
