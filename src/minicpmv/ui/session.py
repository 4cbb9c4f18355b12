"""What one visitor of the page says, and what is said to them: a conversation with each speaker, all asked the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from minicpmv.errors import UsageError
from minicpmv.inference.chat import Conversation
from minicpmv.inference.generation import GenerationSettings
from minicpmv.ui.speakers import Speaker
from minicpmv.ui.turns import Turns

__all__ = ["Pending", "Room", "Session"]

_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that is being answered."""

    question: str
    images: tuple[str, ...]
    written: list[str]
    """Of each speaker's answer, so far."""


@dataclass(frozen=True, slots=True)
class Room:
    """The speakers, who answer one question at a time."""

    speakers: Sequence[Speaker]
    lock: threading.Lock = field(default_factory=threading.Lock)


class Session:
    """The conversations of one visitor."""

    def __init__(self, room: Room, *, system: str | None = None) -> None:
        self._room = room
        self._stopped = threading.Event()
        self.conversations = [Conversation(speaker.loaded, system=system) for speaker in room.speakers]
        """One with each speaker. They hold the same questions."""
        self.pending: Pending | None = None

    def ask(
        self,
        question: str,
        images: Sequence[str],
        *,
        settings: GenerationSettings,
        system: str | None = None,
        seed: int | None = None,
    ) -> Iterator[None]:
        """Ask everybody, and yield again and again until all have answered. A question that fails is not remembered.

        Args:
            question: Its text.
            images: Files, shown before it.
            settings: How tokens are chosen.
            system: The instruction of the whole conversation.
            seed: Where tokens are drawn at random.

        Raises:
            UsageError: Nothing is asked, or a format does not allow it.
            ImageError: A picture cannot be read.
            MemoryShortageError: There is no room for it.
        """
        if not (question.strip() or images):
            raise UsageError("question: found none, expected a text or a picture\n  fix: write one")
        for conversation in self.conversations:
            conversation.settings, conversation.system = settings, system
        self._stopped.clear()
        self.pending = Pending(question, tuple(images), ["" for _ in self.conversations])
        with ThreadPoolExecutor(1, thread_name_prefix="question") as pool:
            # In a thread of its own: whoever holds the lock is not at the mercy of a page that asks for no more.
            answering = pool.submit(self._answer_all, self.pending, seed)
            try:
                while wait([answering], timeout=_LOOK_EVERY_SECONDS).not_done:
                    yield
            finally:
                self._stopped.set()
        self.pending = None
        answering.result()

    def stop(self) -> None:
        """End the answers that are being written, at their next token."""
        self._stopped.set()

    def undo(self) -> tuple[str, tuple[str, ...]]:
        """Forget the last question and its answers, and return it with its images.

        Raises:
            UsageError: Nothing was asked.
        """
        forgotten, *_ = [conversation.undo() for conversation in self.conversations]
        if forgotten is None:
            raise UsageError("conversation: found no question, expected one to take back\n  fix: ask first")
        return forgotten.question, forgotten.images

    def clear(self) -> None:
        """Forget what was said."""
        for conversation in self.conversations:
            conversation.clear()

    def _answer_all(self, pending: Pending, seed: int | None) -> None:
        before = len(self.conversations[0].exchanges)
        turns = Turns([speaker.speaking for speaker in self._room.speakers])
        with self._room.lock, ThreadPoolExecutor(len(self.conversations), thread_name_prefix="answer") as pool:
            answers = [pool.submit(self._answer, n, pending, turns, seed) for n in range(len(self.conversations))]
        failed = [error for answer in answers if (error := answer.exception()) is not None]
        if not failed:
            return
        for conversation in self.conversations:
            while len(conversation.exchanges) > before:
                conversation.undo()
        raise failed[0]

    def _answer(self, number: int, pending: Pending, turns: Turns, seed: int | None) -> None:
        def show(text: str) -> None:
            pending.written[number] += text

        with turns.taking_part(number) as hand_on:

            def is_over() -> bool:
                hand_on()
                return self._stopped.is_set()

            is_answered = False
            try:
                self.conversations[number].ask(
                    pending.question, pending.images, on_text=show, is_over=is_over, seed=seed
                )
                is_answered = True
            finally:
                if not is_answered:  # then nobody needs the others' answers
                    self._stopped.set()
