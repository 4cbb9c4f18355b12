"""Holds the dialogue of ``minicpmv chat``: a line is a question, or a command if it begins with a slash."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.film_options import name_frames
from minicpmv.cli.terminal import Terminal, catch_interrupt
from minicpmv.data.records.file_kinds import read_kind
from minicpmv.errors import MiniCPMVError, UsageError
from minicpmv.wording import suggest

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.data.media.opened_films import ReadFilm
    from minicpmv.inference.chat import Conversation
    from minicpmv.processing.text.tool_calls import ToolCall

__all__ = ["AnswerPrinter", "check_file", "hold_dialogue"]

_WELCOME = "Type a question, or /help. Ctrl-C stops an answer, Ctrl-D ends."


def check_file(file: str) -> None:
    """Make sure that a picture's file exists, and is not of another kind; say where the model sees it otherwise.

    Raises:
        UsageError: It does not, or is.
    """
    if not Path(file).is_file():
        raise UsageError(
            f"image: found no file {file!r}, expected a picture\n  fix: name a file that exists, relative to "
            f"{Path.cwd()} or in full"
        )
    kind = read_kind(file)
    if kind is not None and not kind.is_picture:
        fix = f"show it as a film: --video {shlex.quote(file)}, or /video" if kind.is_film else kind.as_image(file)
        raise UsageError(f"image: found {kind.name}, in {file!r}, expected a picture\n  fix: {fix}")
    from minicpmv.data.media.image_files import Seen, inspect_files

    (seen,) = inspect_files([file], with_notices=True)
    for trait in seen.traits if isinstance(seen, Seen) else ():  # what cannot be read is named where it is opened
        film = f"; --video {shlex.quote(file)} shows it as a film" if trait.code == "D303" else ""
        print(
            f"notice: {file}: found {trait.found}, expected {trait.expected}\n  fix: {trait.fix}{film}", file=sys.stderr
        )


def hold_dialogue(
    conversation: Conversation,
    images: Sequence[str],
    films: Sequence[ReadFilm] = (),
    open_film: Callable[[str], ReadFilm] | None = None,
) -> None:
    """Answer lines until there are no more, or /quit.

    Args:
        conversation: The conversation with the model.
        images: Pictures that are shown before the first question.
        films: Films that are.
        open_film: Opens those that are named later.

    Raises:
        MiniCPMVError: A line that was piped in, not typed, cannot be answered.
    """
    _Dialogue(conversation, images, films, open_film).run()


@dataclass(frozen=True, slots=True)
class _Command:
    run: Callable[[str], None]
    help: str
    argument: str = ""


class _Dialogue:
    def __init__(
        self,
        conversation: Conversation,
        images: Sequence[str],
        films: Sequence[ReadFilm],
        open_film: Callable[[str], ReadFilm] | None,
    ) -> None:
        self._conversation = conversation
        self._waiting = list(images)
        self._films = list(films)
        self._open_film = open_film
        self._results: list[str] = []
        self._is_over = False
        self._commands = {
            "/image": _Command(self._add_image, "show a picture with the next question; may be repeated", "FILE"),
            "/result": _Command(self._take_result, "give the result of a tool that the answer calls", "TEXT"),
            "/video": _Command(self._add_film, "show a film with the next question, behind its pictures", "FILE"),
            "/images": _Command(self._list_shown, "list the pictures and films for the next question"),
            "/undo": _Command(self._undo, "forget the last question, what was shown with it and its answer"),
            "/reset": _Command(self._reset, "start over"),
            "/save": _Command(self._save, "write the dialogue as a record of training data", "FILE"),
            "/help": _Command(self._help, "show this"),
            "/quit": _Command(self._quit, "end; so does Ctrl-D"),
        }
        if not conversation.tools:
            del self._commands["/result"]
        if open_film is None or conversation.loaded.processor.version.reading.films is None:
            del self._commands["/video"]
        with_files = [name for name, command in self._commands.items() if command.argument == "FILE"]
        self._terminal = Terminal(list(self._commands), with_files)

    def run(self) -> None:
        self._terminal.note(_WELCOME)
        self._name_frames(self._films)
        while not self._is_over:
            try:
                self._take(self._terminal.read())
            except EOFError:
                return
            except KeyboardInterrupt:  # at the prompt: the typed line is dropped, as in other shells
                if not self._terminal.is_interactive:
                    raise
                print()
            except MiniCPMVError as error:  # an invalid line must not end the dialogue
                if not self._terminal.is_interactive:
                    raise
                print(error, file=sys.stderr)

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            if question := line.strip():
                self._ask(question)
            return
        name, _, argument = line.strip().partition(" ")
        command, argument = self._commands.get(name), argument.strip()
        if command is None:
            raise UsageError(
                f"{name}: found no such command, expected one of {', '.join(self._commands)}\n"
                f"  fix: {suggest(name, self._commands, otherwise='type /help')}; a question that begins with a slash "
                "needs a space before it"
            )
        if bool(argument) != bool(command.argument):
            expected = f"{name} {command.argument}".strip()
            raise UsageError(f"{name}: found {line.strip()!r}, expected {expected}\n  fix: write {expected}")
        command.run(argument)

    def _ask(self, question: str) -> None:
        images = self._waiting
        self._answer(partial(self._conversation.ask, question, images, films=self._films))
        self._waiting, self._films = [], []

    def _take_result(self, text: str) -> None:
        calls = self._conversation.calls
        if not calls:
            raise UsageError("/result: found no call in the last answer, expected one\n  fix: ask a question")
        results = [*self._results, text]
        if len(results) == len(calls):
            self._answer(partial(self._conversation.give_results, results))
        else:
            self._results = results
            self._name_next_call()

    def _answer(self, ask: Callable[..., str]) -> None:
        """Show an answer as it is written, and what it calls for."""
        shown = AnswerPrinter()
        if not self._terminal.is_interactive:
            ask(on_text=shown.text, on_call=shown.call)
        else:
            with catch_interrupt() as is_over:
                ask(on_text=shown.text, on_call=shown.call, is_over=is_over)
        print(flush=True)
        self._results = []
        if self._conversation.exchanges[-1].was_stopped:
            self._terminal.note("(stopped; the text so far is remembered, /undo forgets it)")
        self._name_next_call()

    def _name_next_call(self) -> None:
        for call in self._conversation.calls[len(self._results) :][:1]:
            self._terminal.note(f"(/result TEXT gives the result of {call})")

    def _add_image(self, file: str) -> None:
        path = str(Path(file).expanduser())
        check_file(path)
        self._waiting.append(path)
        count = len(self._waiting)
        self._terminal.note(f"({count} picture{'s'[: count > 1]} will be shown with the next question)")

    def _add_film(self, file: str) -> None:
        assert self._open_film is not None, "the command is there only with it"
        film = self._open_film(str(Path(file).expanduser()))
        self._films.append(film)
        self._name_frames([film])

    def _name_frames(self, films: Sequence[ReadFilm]) -> None:
        for line in name_frames(self._conversation.loaded.processor, films):
            self._terminal.note(line)

    def _list_shown(self, _: str) -> None:
        print("\n".join([*self._waiting, *(film.film.name for film in self._films)]) or "none", flush=True)

    def _undo(self, _: str) -> None:
        forgotten = self._conversation.undo()
        self._results = []
        shown = "" if forgotten is None else forgotten.question or ", ".join(forgotten.results)
        self._terminal.note("(nothing to forget)" if forgotten is None else f"(forgotten: {shown})")

    def _reset(self, _: str) -> None:
        self._conversation.clear()
        self._waiting, self._films, self._results = [], [], []
        self._terminal.note("(a new dialogue)")

    def _save(self, file: str) -> None:
        from minicpmv.inference.conversation_record import save_record

        path = Path(file).expanduser()
        save_record(self._conversation, path)
        self._terminal.note(f"(saved in {path})")
        if any(exchange.was_stopped for exchange in self._conversation.exchanges):
            print(
                f"notice: {path} holds an answer that was stopped; complete it before you train on it", file=sys.stderr
            )

    def _help(self, _: str) -> None:
        for name, command in self._commands.items():
            print(f"  {f'{name} {command.argument}':<14}{command.help}")
        print("A backslash at the end of a line continues it on the next one. Ctrl-C stops an answer.", flush=True)

    def _quit(self, _: str) -> None:
        self._is_over = True


class AnswerPrinter:
    """Prints an answer as it is written, each call of a tool on a line of its own."""

    def __init__(self) -> None:
        self._has_begun = False

    def text(self, text: str) -> None:
        """Print a piece of text."""
        self._print(text)

    def call(self, call: ToolCall) -> None:
        """Print a call."""
        self._print(f"{chr(10) if self._has_begun else ''}-> {call}")

    def _print(self, text: str) -> None:
        self._has_begun = True
        print(text, end="", flush=True)
