"""Holds one visitor's conversations: one with each speaker, all with the same questions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from minicpmv.errors import UsageError
from minicpmv.inference.chat import Conversation
from minicpmv.inference.generation import GenerationSettings
from minicpmv.serving.requests.sent_films import UploadedFilm
from minicpmv.ui.notes import Clock, Note, describe_files
from minicpmv.ui.speakers import Speaker
from minicpmv.ui.turns import Turns
from minicpmv.ui.uploads import paths_of

__all__ = ["Pending", "Room", "Session"]

_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pending:
    """Holds a question that is being answered."""

    question: str
    images: tuple[str, ...]
    written: list[str]
    """Text of each speaker's answer so far."""
    films: tuple[UploadedFilm, ...] = ()
    expected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """Holds the speakers, who answer one question at a time."""

    speakers: Sequence[Speaker]
    lock: threading.Lock = field(default_factory=threading.Lock)


class Session:
    """Holds the conversations of one visitor."""

    def __init__(self, room: Room, *, system: str | None = None) -> None:
        self._room = room
        self._stopped = threading.Event()
        self.conversations = [Conversation(speaker.loaded, system=system) for speaker in room.speakers]
        """Conversations, one with each speaker, with the same questions."""
        self.notes: list[list[Note]] = [[] for _ in room.speakers]
        """Of each conversation's answers, in their order."""
        self.pending: Pending | None = None

    def ask(
        self,
        question: str,
        images: Sequence[str],
        films: Sequence[UploadedFilm] = (),
        *,
        settings: GenerationSettings,
        system: str | None = None,
        seed: int | None = None,
        expected: Sequence[str] = (),
    ) -> Iterator[None]:
        """Ask all speakers, and yield repeatedly until all have answered. A question that fails is not remembered.

        Args:
            question: Text of the question.
            images: Image files, shown before it.
            films: Films, shown behind the images.
            settings: Settings of generation.
            system: Instruction for the whole conversation.
            seed: Seed for sampled tokens.
            expected: Accepted answers, to be shown with the model's.

        Raises:
            UsageError: The question is empty, or a format does not allow it.
            ImageError: A picture cannot be read.
            FilmError: A film cannot be read.
            MemoryShortageError: There is too little memory for it.
        """
        if not (question.strip() or images or films):
            raise UsageError("question: found none, expected a text, a picture or a film\n  fix: write one")
        for conversation in self.conversations:
            conversation.settings, conversation.system = settings, system
        self._stopped.clear()
        written = ["" for _ in self.conversations]
        self.pending = Pending(question, tuple(images), written, tuple(films), tuple(expected))
        with ThreadPoolExecutor(1, thread_name_prefix="question") as pool:
            # In a separate thread: a page that stops reading must not keep the lock.
            answering = pool.submit(self._answer_all, self.pending, seed)
            try:
                while wait([answering], timeout=_LOOK_EVERY_SECONDS).not_done:
                    yield
            finally:
                self._stopped.set()
        self.pending = None
        answering.result()

    @property
    def has_begun(self) -> bool:
        """True once a question has been answered."""
        return bool(self.conversations[0].exchanges)

    def stop(self) -> None:
        """Stop the answers that are being written, at their next token."""
        self._stopped.set()

    def undo(self) -> tuple[str, tuple[str, ...]]:
        """Forget the last question and its answers, and return it with its files, images and then films.

        Raises:
            UsageError: There is no question yet.
        """
        exchanges = self.conversations[0].exchanges
        if not exchanges:
            raise UsageError("conversation: found no question, expected one to take back\n  fix: ask first")
        forgotten = exchanges[-1]
        self._keep(len(exchanges) - 1)
        return forgotten.question, (*forgotten.images, *paths_of(forgotten.films))

    def clear(self) -> None:
        """Forget the conversations."""
        self._keep(0)

    def _keep(self, count: int) -> None:
        """Forget all questions but the first so many."""
        for conversation, notes in zip(self.conversations, self.notes, strict=True):
            while len(conversation.exchanges) > count:
                conversation.undo()
            del notes[count:]

    def _answer_all(self, pending: Pending, seed: int | None) -> None:
        before = len(self.conversations[0].exchanges)
        turns = Turns([speaker.speaking for speaker in self._room.speakers])
        with self._room.lock, ThreadPoolExecutor(len(self.conversations), thread_name_prefix="answer") as pool:
            answers = [pool.submit(self._answer, n, pending, turns, seed) for n in range(len(self.conversations))]
        failed = [error for answer in answers if (error := answer.exception()) is not None]
        if not failed:
            return
        self._keep(before)
        raise failed[0]

    def _answer(self, number: int, pending: Pending, turns: Turns, seed: int | None) -> None:
        def show(text: str) -> None:
            pending.written[number] += text

        conversation = self.conversations[number]
        with turns.taking_part(number) as hand_on:
            clock = Clock()

            def is_over() -> bool:
                clock.stop()
                hand_on()
                clock.resume()
                return self._stopped.is_set()

            is_answered = False
            try:
                conversation.ask(
                    pending.question,
                    pending.images,
                    films=pending.films,
                    on_text=show,
                    is_over=is_over,
                    seed=seed,
                )
                shown = describe_files(
                    conversation.loaded.processor,
                    pending.images,
                    pending.films,
                    max_slice_nums=conversation.settings.max_slice_nums,
                )
                self.notes[number].append(Note(shown=tuple(shown), clock=clock, expected=pending.expected))
                is_answered = True
            finally:
                if not is_answered:  # then the others' answers are not needed
                    self._stopped.set()
