"""What is said on the page: to one model, or to two that share their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import ImageError, UsageError
from minicpmv.inference import chat as chat_module
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import load_model
from minicpmv.machine.shortage import MemoryShortageError
from minicpmv.ui import session as session_module
from minicpmv.ui.session import Room, Session
from minicpmv.ui.speakers import OWN_BASE, load_speakers
from tests.tiny import FIXTURES
from tests.unit.models.adapters.test_attaching import make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = FIXTURES / "v2_6"
IMAGE = str(MODEL / "images" / "wide_150x80.png")
GREEDY = GenerationSettings(max_new_tokens=10)
DRAWN = GenerationSettings(max_new_tokens=10, sample=True, temperature=1.5)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return make_adapter(tmp_path_factory.mktemp("adapter"), "v2_6")


@pytest.fixture(scope="module")
def room(adapter: Path) -> Room:
    return Room(load_speakers(str(adapter), OWN_BASE, load=load_model))


def ask(session: Session, question: str, *images: str, **options: Any) -> list[str]:
    given: dict[str, Any] = {"settings": GREEDY} | options
    for _ in session.ask(question, images, **given):
        pass
    return [conversation.exchanges[-1].answer for conversation in session.conversations]


def test_the_base_is_the_adapter_switched_off(room: Room) -> None:
    adapted, base = room.speakers
    assert adapted.loaded.model is base.loaded.model
    assert base.loaded.path == str(MODEL)


@pytest.mark.parametrize(
    ("settings", "seed"), [pytest.param(GREEDY, None, marks=pytest.mark.slow), (DRAWN, 3)], ids=["greedy", "drawn"]
)
def test_side_by_side_each_answers_as_alone(
    room: Room, adapter: Path, settings: GenerationSettings, seed: int | None
) -> None:
    content = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is in the image?"}]
    alone = [
        answer(load_model(path), [{"role": "user", "content": content}], settings=settings, seed=seed)
        for path in (adapter, MODEL)
    ]
    assert alone[0] != alone[1]
    session = Session(room)
    assert ask(session, "What is in the image?", IMAGE, settings=settings, seed=seed) == alone
    follow_up = ask(session, "Why?")
    assert len({*follow_up, *alone}) == 4, "each goes on with its own history"


def test_answers_of_both_grow_at_the_same_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of each in turn: neither waits until the other has ended."""
    monkeypatch.setattr(session_module, "_LOOK_EVERY_SECONDS", 0.001)
    session = Session(room)
    seen: list[tuple[int, int]] = []
    long = GenerationSettings(max_new_tokens=60)
    for _ in session.ask("Describe this image in detail.", [IMAGE], settings=long):
        if session.pending is not None:
            seen.append((len(session.pending.written[0]), len(session.pending.written[1])))
    longest = max(first for first, _ in seen)
    assert any(second and first < longest for first, second in seen), seen
    assert session.pending is None


def test_stopping_keeps_what_was_written(room: Room) -> None:
    session = Session(room)
    for _ in session.ask("Describe this image in detail.", [], settings=GenerationSettings(max_new_tokens=2000)):
        if session.pending is not None and session.pending.written[1]:
            session.stop()
    stopped = session.conversations[1].exchanges[0]
    assert stopped.was_stopped
    assert 0 < len(stopped.answer) < 400, "left alone, it writes more than 400 tokens"
    assert ask(session, "Go on.", settings=GREEDY), "and the conversation goes on"


def test_leaving_in_the_middle_frees_the_models(room: Room) -> None:
    asking: Any = Session(room).ask("Hello?", [], settings=GenerationSettings(max_new_tokens=2000))
    next(asking)
    asking.close()
    assert room.lock.acquire(timeout=10)
    room.lock.release()


def test_a_question_that_fails_is_forgotten_by_all(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(room)
    ask(session, "Hello?")
    with pytest.raises(ImageError, match="no such file"):
        ask(session, "And this?", "nowhere.png")
    base = session.conversations[1]
    monkeypatch.setattr(base, "ask", lambda *_, **__: (_ for _ in ()).throw(UsageError("as the test wants")))
    with pytest.raises(UsageError, match="as the test wants"):
        ask(session, "And now?")
    assert [len(conversation.exchanges) for conversation in session.conversations] == [1, 1]


def test_a_question_without_room_is_named_and_forgotten(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(room)
    with monkeypatch.context() as patch:
        full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        patch.setattr(chat_module, "answer", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises(MemoryShortageError, match=r"this conversation, of 1 message with 1 picture \(CUDA out"):
            ask(session, "What is it?", IMAGE)
    assert ask(session, "What is it?", IMAGE)
    assert [len(conversation.exchanges) for conversation in session.conversations] == [1, 1]


def test_a_question_can_be_taken_back_with_what_was_noted(room: Room) -> None:
    session = Session(room)
    ask(session, "What is it?", IMAGE, expected=["A cat"])
    assert [[note.expected for note in notes] for notes in session.notes] == [[("A cat",)], [("A cat",)]]
    assert all(0 < note.clock.num_tokens <= 10 for (note,) in session.notes)
    assert session.undo() == ("What is it?", (IMAGE,))
    assert [conversation.exchanges for conversation in session.conversations] == [(), ()]
    assert session.notes == [[], []]
    with pytest.raises(UsageError, match="found no question"):
        session.undo()


def test_nothing_is_not_a_question(room: Room) -> None:
    with pytest.raises(UsageError, match="question: found none"):
        ask(Session(room), "  ")


def test_too_long_a_conversation_is_refused_in_words(room: Room) -> None:
    with pytest.raises(UsageError, match="found 8419 tokens with its pictures, expected fewer than 2048"):
        ask(Session(room), "word " * 2100)
