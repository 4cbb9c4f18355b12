"""Holds a conversation with one model: questions, pictures and films in, answers out as they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import LoadedModel
from minicpmv.machine.shortage import naming_shortage
from minicpmv.processing.films.shown import OpenedFilm
from minicpmv.processing.text.answer_calls import CallReader, split_calls
from minicpmv.processing.text.messages import read_messages
from minicpmv.processing.text.tool_calls import ToolCall, to_openai
from minicpmv.wording import counted

__all__ = ["Conversation", "Exchange"]

_SMALLER = (
    "start over (/reset in a dialogue), show fewer pictures, or frames of films (--max-frames), or have pictures cut "
    "into fewer tiles (--max-slice-nums 1 is the least)"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    question: str
    images: tuple[str, ...]
    """Image files shown before the question."""
    answer: str
    """The answer, with its thoughts, which begin with ``<think>``, and its calls of tools, as they were written."""
    was_stopped: bool = False
    """Whether the caller ended the answer before the model did."""
    results: tuple[str, ...] = ()
    """Results of the calls of the answer before, instead of a question."""
    films: tuple[OpenedFilm, ...] = ()
    """Films shown before the question, behind the images."""


class Conversation:
    """A dialogue with a model, which remembers its questions, answers and pictures.

    Args:
        loaded: The model that answers.
        settings: How tokens are chosen.
        system: An instruction before the first question (2.5 and later).
        tools: Functions that the model may call (4.6 and later), as ``read_tools`` returns them.

    Raises:
        UsageError: The model does not know tools.
        CheckpointError: Its chat template writes them in a form that is not known here.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        settings: GenerationSettings | None = None,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.loaded = loaded
        self.tools = tuple(tools)
        """The functions, which do not change."""
        if tools:  # refused now, not at the first question
            turns, _, _ = read_messages([_message("user", "?")], tools=list(tools))
            loaded.processor.encode_text(turns, add_generation_prompt=True)
        self.settings = settings or GenerationSettings()
        """Settings, which may be changed between two questions."""
        self.system = system
        """The instruction, which may be changed, too; the model then reads the whole dialogue under the new one."""
        self._exchanges: list[Exchange] = []

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The questions and answers so far."""
        return tuple(self._exchanges)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls in the last answer, in its order."""
        return self._split(self._exchanges[-1].answer)[1] if self._exchanges else ()

    def messages(self) -> list[dict[str, Any]]:
        """Return the dialogue in OpenAI's form; pictures are named by their files."""
        messages = [] if self.system is None else [_message("system", self.system)]
        for exchange in self._exchanges:
            messages += _asked(exchange)
            text, calls = self._split(exchange.answer)
            messages.append(_message("assistant", text))
            if calls:
                messages[-1]["tool_calls"] = [to_openai(call) for call in calls]
        return messages

    def clear(self) -> None:
        """Forget everything but the instruction."""
        self._exchanges = []

    def undo(self) -> Exchange | None:
        """Forget the last question and its answer, and return them; None if there is none."""
        return self._exchanges.pop() if self._exchanges else None

    def ask(
        self,
        question: str,
        images: Sequence[str | Path] = (),
        *,
        films: Sequence[OpenedFilm] = (),
        on_text: Callable[[str], None] | None = None,
        on_call: Callable[[ToolCall], None] | None = None,
        is_over: Callable[[], bool] | None = None,
        seed: int | None = None,
    ) -> str:
        """Ask the next question; images and then films come before its text. A question that fails is not remembered.

        The returned answer includes its thoughts; the model's format leaves them out when the next question is asked.
        An answer that ``is_over`` ends is remembered as far as it was written.

        Args:
            question: Text of the question.
            images: Image files.
            films: Films, from ``minicpmv.data.media.opened_films.open_film``.
            on_text: As for ``generation.answer``, without the calls of tools if there is ``on_call``.
            on_call: Called with each call of a tool as soon as it is written.
            is_over: As for ``generation.answer``.
            seed: As for ``generation.answer``.

        Raises:
            UsageError: The model's format does not allow it, or the conversation has become too long.
            ImageError: A picture cannot be read.
            FilmError: A film cannot be read.
            MemoryShortageError: Memory ran out.
        """
        exchange = Exchange(question, tuple(map(str, images)), "", films=tuple(films))
        return self._answer(exchange, on_text=on_text, on_call=on_call, is_over=is_over, seed=seed)

    def give_results(
        self,
        results: Sequence[str],
        *,
        on_text: Callable[[str], None] | None = None,
        on_call: Callable[[ToolCall], None] | None = None,
        is_over: Callable[[], bool] | None = None,
        seed: int | None = None,
    ) -> str:
        """Go on with the results of the last answer's calls, one for each in their order; otherwise as ``ask``.

        Raises:
            UsageError: There are not as many calls.
        """
        if not results or len(results) != len(self.calls):
            raise UsageError(
                f"results: found {len(results)} for {counted(len(self.calls), 'call')}, expected one for each\n"
                "  fix: give the result of each call, in their order"
            )
        exchange = Exchange("", (), "", results=tuple(results))
        return self._answer(exchange, on_text=on_text, on_call=on_call, is_over=is_over, seed=seed)

    def _answer(
        self,
        exchange: Exchange,
        *,
        on_text: Callable[[str], None] | None,
        on_call: Callable[[ToolCall], None] | None,
        is_over: Callable[[], bool] | None,
        seed: int | None,
    ) -> str:
        was_stopped = False

        def stops_here() -> bool:
            nonlocal was_stopped
            was_stopped = is_over is not None and is_over()
            return was_stopped

        reader = CallReader(self.tools, thinks=self.settings.enable_thinking)

        def show(pieces: Sequence[str | ToolCall]) -> None:
            for piece in pieces:
                if isinstance(piece, ToolCall):
                    if on_call:
                        on_call(piece)
                elif on_text:
                    on_text(piece)

        reads = bool(self.tools) and on_call is not None
        messages = [*self.messages(), *_asked(exchange)]
        with naming_shortage("memory", lambda: _describe(messages), fix=_SMALLER):
            said = answer(
                self.loaded,
                messages,
                settings=self.settings,
                on_text=(lambda text: show(reader.push(text))) if reads else on_text,
                is_over=stops_here,
                seed=seed,
                tools=self.tools,
            )
        if reads:
            show(reader.end())
        self._exchanges.append(replace(exchange, answer=said, was_stopped=was_stopped))
        return said

    def _split(self, said: str) -> tuple[str, tuple[ToolCall, ...]]:
        return split_calls(said, self.tools) if self.tools else (said, ())


def _asked(exchange: Exchange) -> list[dict[str, Any]]:
    if exchange.results:
        return [_message("tool", result) for result in exchange.results]
    return [_message("user", exchange.question, exchange.images, exchange.films)]


def _describe(messages: Sequence[Mapping[str, Any]]) -> str:
    kinds = [piece["type"] for message in messages for piece in message["content"]]
    pictures, films = counted(kinds.count("image"), "picture"), counted(kinds.count("video"), "film")
    shown = f"{pictures} and {films}" if "video" in kinds else pictures
    return f"this conversation, of {counted(len(messages), 'message')} with {shown}"


def _message(role: str, text: str, images: Sequence[str] = (), films: Sequence[OpenedFilm] = ()) -> dict[str, Any]:
    pictures = [{"type": "image", "image": image} for image in images]
    shown = [{"type": "video", "video": film} for film in films]
    return {"role": role, "content": [*pictures, *shown, {"type": "text", "text": text}]}
