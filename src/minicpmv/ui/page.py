"""Builds the page: its components, and what happens when they are used."""

from __future__ import annotations

import html
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
from gradio.utils import get_upload_folder

from minicpmv.errors import MiniCPMVError
from minicpmv.inference.conversation_record import save_record
from minicpmv.ui.controls import Controls
from minicpmv.ui.examples.bar import ExampleBar
from minicpmv.ui.examples.records import Example, Examples
from minicpmv.ui.session import Room, Session
from minicpmv.ui.settings import PageSettings
from minicpmv.ui.transcript import show_exchanges
from minicpmv.ui.uploads import check_uploads

__all__ = ["Page"]

_EMPTY_BOX = {"text": "", "files": []}

_DOWNLOAD = """(file) => {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name;
    link.click();
}"""

_Update = dict[Any, Any]
"""Updates of components: new values or properties."""


@dataclass(slots=True)
class _Tab:
    """Holds what one open tab of a browser shows."""

    session: Session
    is_plain: bool = False
    """Whether answers are shown as they were written, instead of as Markdown."""
    example: Example | None = None
    """The record that was chosen last."""


class Page:
    """Builds the page of one process, with a session for each open tab.

    Args:
        room: The models that answer.
        settings: Limits and initial values.
        examples: Records that can be asked.
    """

    def __init__(self, room: Room, settings: PageSettings, examples: Examples | None = None) -> None:
        self._room, self._settings, self._examples = room, settings, examples
        self._tabs: dict[str, _Tab] = {}
        self.blocks = gradio.Blocks(title=f"MiniCPM-V: {room.speakers[0].name}", analytics_enabled=False)
        with self.blocks:
            self._lay_out()
        self.blocks.queue(max_size=settings.max_queue)

    def stop(self) -> None:
        """Stop all answers that are being written."""
        for tab in self._tabs.values():
            tab.session.stop()

    def _lay_out(self) -> None:
        speakers = self._room.speakers
        gradio.HTML(self._heading(), elem_id="heading")
        with gradio.Row(elem_id="layout"):
            with gradio.Column(scale=4, min_width=320, elem_id="talk"):
                self._bar = None if self._examples is None else ExampleBar(self._examples)
                with gradio.Row(elem_id="chats", elem_classes="side-by-side" if len(speakers) > 1 else ""):
                    chats = [self._lay_out_chat(number) for number in range(len(speakers))]
                self._chats, self._saves = zip(*chats, strict=True)
                self._problem = gradio.HTML(visible=False, elem_id="problem")
                self._box = gradio.MultimodalTextbox(
                    placeholder="Ask something",
                    label="Question",
                    file_types=["image", "video"] if self._takes_films() else ["image"],
                    file_count="multiple",
                    sources=["upload"],
                    show_label=False,
                    max_lines=8,
                    elem_id="box",
                )
                with gradio.Row(elem_id="actions"):
                    self._retry = gradio.Button("Retry", size="sm", interactive=False)
                    self._undo = gradio.Button("Undo", size="sm", interactive=False)
                    self._clear = gradio.Button("Clear", size="sm", interactive=False)
                    self._plain = gradio.Checkbox(False, label="Plain text", container=False, elem_id="plain")
            with gradio.Column(scale=1, min_width=280, elem_id="controls"):
                self._controls = Controls([speaker.loaded for speaker in speakers], self._settings)
        self._record = gradio.DownloadButton(visible="hidden")
        self._wire()

    def _takes_films(self) -> bool:
        return all(speaker.loaded.processor.version.reading.films for speaker in self._room.speakers)

    def _heading(self) -> str:
        first = self._room.speakers[0].loaded
        kind = first.processor.version.model.rpartition("/")[2]
        dtype = str(next(first.model.parameters()).dtype).removeprefix("torch.")
        return f"<h1>{html.escape(kind)}</h1><p>{dtype} on {first.device}</p>"

    def _lay_out_chat(self, number: int) -> tuple[gradio.Chatbot, gradio.Button]:
        speaker = self._room.speakers[number]
        path = f"<span>{html.escape(speaker.name)}</span>"
        title = f"{speaker.role} {path}" if speaker.role else path
        what = "a picture or a film" if self._takes_films() else "a picture"
        records = "" if self._examples is None else " Or choose a record above."
        with gradio.Column(min_width=300, elem_classes="chat"):
            with gradio.Row(elem_classes="speaker"):
                gradio.HTML(f'<h2 title="{html.escape(speaker.name)}">{title}</h2>')
                save = gradio.Button("Save as training record", size="sm", interactive=False, elem_classes="save")
            chat = gradio.Chatbot(
                label=speaker.role or speaker.name,
                show_label=False,
                height=None,
                buttons=["copy"],
                placeholder=f"Drop {what} here, or press the paper clip below; then ask.{records}",
                elem_id=f"chat-{number}",
                allow_file_downloads=False,
            )
        return chat, save

    def _wire(self) -> None:
        # One answer at a time for all tabs: more would only share the same device.
        alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answers", "show_progress": "hidden"}
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        private: dict[str, Any] = {"api_visibility": "private"}
        changed = [*self._chats, *self._saves, self._box, self._problem, self._retry, self._undo, self._clear]
        if self._bar is not None:
            changed += [*self._bar.components, self._controls.system]
            self._bar.wire(self._choose, self._stepper, changed, **at_once, **private)
        given = {self._box, *self._controls.components}
        self._box.submit(self._ask, given, changed, **alone, **private)
        self._retry.click(self._ask_again, given, changed, **alone, **private)
        self._box.stop(self._end_answer, None, None, **at_once, **private)
        self._undo.click(self._take_back, None, changed, **at_once, **private)
        self._clear.click(self._start_anew, None, changed, **at_once, **private)
        self._plain.change(self._show_plain, self._plain, list(self._chats), **at_once, **private)
        for number, save in enumerate(self._saves):
            saved = save.click(self._saver(number), None, [self._record, self._problem], **at_once, **private)
            saved.then(None, self._record, None, js=_DOWNLOAD, **private)
        self.blocks.unload(self._leave)

    # Actions of a tab, which is found by the name that Gradio gives it.

    def _ask(self, given: _Update, request: gradio.Request) -> Iterator[_Update]:
        message = given[self._box]
        yield from self._answer(self._tab(request), message["text"], message["files"], given)

    def _ask_again(self, given: _Update, request: gradio.Request) -> Iterator[_Update]:
        tab = self._tab(request)
        try:
            question, files = tab.session.undo()
        except MiniCPMVError as error:
            yield self._problem_update(error)
            return
        yield from self._answer(tab, question, files, given)

    def _answer(self, tab: _Tab, question: str, files: Sequence[str], given: _Update) -> Iterator[_Update]:
        box, problem = dict[str, Any](), None
        example = tab.example
        if example is not None and (tab.session.has_begun or not example.is_asked(question, files)):
            example = None
        try:
            images, films = check_uploads(
                files,
                max_pixels=self._settings.max_image_pixels,
                requests={} if example is None else example.requests,
            )
            chosen = self._controls.read(given)
            answering = tab.session.ask(
                question,
                images,
                films,
                settings=chosen.settings,
                system=chosen.system,
                seed=chosen.seed,
                expected=() if example is None else example.expected,
            )
            yield self._while_answering(tab)
            for _ in answering:
                yield self._show(tab)
        except MiniCPMVError as error:
            box, problem = {"value": {"text": question, "files": list(files)}}, error
        yield self._at_rest(tab, box) | self._problem_update(problem)

    def _end_answer(self, request: gradio.Request) -> None:
        self._tab(request).session.stop()

    def _take_back(self, request: gradio.Request) -> _Update:
        tab = self._tab(request)
        try:
            question, files = tab.session.undo()
        except MiniCPMVError as error:
            return self._problem_update(error)
        box = {"value": {"text": question, "files": list(files)}}
        return self._at_rest(tab, box) | self._problem_update(None)

    def _start_anew(self, request: gradio.Request) -> _Update:
        tab = self._tab(request)
        tab.session.clear()
        return self._at_rest(tab, {"value": _EMPTY_BOX}) | self._problem_update(None)

    def _choose(self, typed: str, request: gradio.Request) -> _Update:
        return self._take_example(self._tab(request), lambda bar, _: bar.open(typed))

    def _stepper(self, by: int) -> Callable[[gradio.Request], _Update]:
        def step(request: gradio.Request) -> _Update:  # as in _saver
            return self._take_example(self._tab(request), lambda bar, chosen: bar.step(chosen, by))

        return step

    def _take_example(self, tab: _Tab, find: Callable[[ExampleBar, Example | None], Example]) -> _Update:
        """Put a record into the box. It begins a conversation of its own, as in an evaluation."""
        assert self._bar is not None, "only its components lead here"
        try:
            example = find(self._bar, tab.example)
        except MiniCPMVError as error:
            return self._problem_update(error)
        tab.example = example
        tab.session.clear()
        box = {"value": {"text": example.question, "files": list(example.files)}}
        system = gradio.Textbox(value=example.system or self._settings.system or "")
        return self._at_rest(tab, box) | {self._controls.system: system} | self._problem_update(None)

    def _show_plain(self, is_plain: bool, request: gradio.Request) -> _Update:
        tab = self._tab(request)
        tab.is_plain = bool(is_plain)
        return self._show(tab)

    def _saver(self, number: int) -> Callable[[gradio.Request], _Update]:
        def save(request: gradio.Request) -> _Update:  # not a partial: Gradio would not see that it takes a request
            return self._save(number, request)

        return save

    def _save(self, number: int, request: gradio.Request) -> _Update:
        conversation = self._tab(request).session.conversations[number]
        folder = tempfile.mkdtemp(dir=get_upload_folder())
        file = Path(folder, time.strftime("conversation-%Y%m%d-%H%M%S.json"))
        try:
            save_record(conversation, file)
        except MiniCPMVError as error:
            return {self._record: None} | self._problem_update(error)
        if any(exchange.was_stopped for exchange in conversation.exchanges):
            gradio.Warning("An answer in it was stopped: complete it before you train on it.", title="Saved")
        return {self._record: str(file)} | self._problem_update(None)

    def _leave(self, request: gradio.Request) -> None:
        tab = self._tabs.pop(str(request.session_hash), None)
        if tab is not None:
            tab.session.stop()

    def _tab(self, request: gradio.Request) -> _Tab:
        return self._tabs.setdefault(str(request.session_hash), _Tab(Session(self._room)))

    # Updates of the page.

    def _show(self, tab: _Tab) -> _Update:
        session = tab.session
        return {
            chat: show_exchanges(
                conversation.exchanges,
                session.pending,
                number,
                notes=session.notes[number],
                is_plain=tab.is_plain,
            )
            for number, (chat, conversation) in enumerate(zip(self._chats, session.conversations, strict=True))
        }

    def _while_answering(self, tab: _Tab) -> _Update:
        box = gradio.MultimodalTextbox(value=_EMPTY_BOX, submit_btn=False, stop_btn=True)
        buttons = (*self._saves, self._retry, self._undo, self._clear)
        resting = {button: gradio.Button(interactive=False) for button in buttons}
        bar = {} if self._bar is None else self._bar.show(tab.example, is_active=False)
        return self._show(tab) | {self._box: box} | resting | bar | self._problem_update(None)

    def _at_rest(self, tab: _Tab, box: dict[str, Any]) -> _Update:
        """Allow the next question; ``box`` replaces the text that was typed meanwhile."""
        has_begun, is_filled = tab.session.has_begun, box.get("value", _EMPTY_BOX) != _EMPTY_BOX
        active = {button: gradio.Button(interactive=has_begun) for button in (*self._saves, self._retry, self._undo)}
        active[self._clear] = gradio.Button(interactive=has_begun or is_filled)
        bar = {} if self._bar is None else self._bar.show(tab.example)
        asking = {self._box: gradio.MultimodalTextbox(submit_btn=True, stop_btn=False, **box)}
        return self._show(tab) | asking | active | bar

    def _problem_update(self, error: MiniCPMVError | None) -> _Update:
        text = "" if error is None else f'<div role="alert">{html.escape(str(error))}</div>'
        return {self._problem: gradio.HTML(text, visible=error is not None)}
