"""Builds the page: its components, and what happens when they are used."""

from __future__ import annotations

import html
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio
from gradio.utils import get_upload_folder

from minicpmv.errors import MiniCPMVError
from minicpmv.inference.conversation_record import save_record
from minicpmv.ui.controls import Controls
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


class Page:
    """Builds the page of one process, with a session for each open tab.

    Args:
        room: The models that answer.
        settings: Limits and initial values.
    """

    def __init__(self, room: Room, settings: PageSettings) -> None:
        self._room, self._settings = room, settings
        self._sessions: dict[str, Session] = {}
        self.blocks = gradio.Blocks(title=f"MiniCPM-V: {room.speakers[0].name}", analytics_enabled=False)
        with self.blocks:
            self._lay_out()
        self.blocks.queue(max_size=settings.max_queue)

    def stop(self) -> None:
        """Stop all answers that are being written."""
        for session in self._sessions.values():
            session.stop()

    def _lay_out(self) -> None:
        speakers = self._room.speakers
        gradio.HTML(self._heading(), elem_id="heading")
        with gradio.Row(elem_id="layout"):
            with gradio.Column(scale=4, min_width=320, elem_id="talk"):
                with gradio.Row(elem_id="chats", elem_classes="side-by-side" if len(speakers) > 1 else ""):
                    chats = [self._lay_out_chat(number) for number in range(len(speakers))]
                self._chats, self._saves = zip(*chats, strict=True)
                self._problem = gradio.HTML(visible=False, elem_id="problem")
                self._box = gradio.MultimodalTextbox(
                    placeholder="Ask something",
                    file_types=self._file_types(),
                    file_count="multiple",
                    sources=["upload"],
                    show_label=False,
                    autofocus=True,
                    max_lines=8,
                    elem_id="box",
                )
                with gradio.Row(elem_id="actions"):
                    self._retry = gradio.Button("Retry", size="sm")
                    self._undo = gradio.Button("Undo", size="sm")
                    self._clear = gradio.Button("Clear", size="sm")
            with gradio.Column(scale=1, min_width=280, elem_id="controls"):
                self._controls = Controls([speaker.loaded for speaker in speakers], self._settings)
        self._record = gradio.DownloadButton(visible="hidden")
        self._wire()

    def _file_types(self) -> list[str]:
        takes_films = all(speaker.loaded.processor.version.reading.films for speaker in self._room.speakers)
        return ["image", "video"] if takes_films else ["image"]

    def _heading(self) -> str:
        first = self._room.speakers[0].loaded
        kind = first.processor.version.model.rpartition("/")[2]
        dtype = str(next(first.model.parameters()).dtype).removeprefix("torch.")
        return f"<h1>{kind}</h1><p>{dtype} on {first.device}</p>"

    def _lay_out_chat(self, number: int) -> tuple[gradio.Chatbot, gradio.Button]:
        with gradio.Column(min_width=300, elem_classes="chat"):
            chat = gradio.Chatbot(
                label=self._room.speakers[number].name,
                height=None,
                buttons=["copy"],
                placeholder="Nothing has been said yet.",
                elem_id=f"chat-{number}",
                allow_file_downloads=False,
            )
            save = gradio.Button("Save as training record", size="sm", elem_classes="save")
        return chat, save

    def _wire(self) -> None:
        # One answer at a time for all tabs: more would only share the same device.
        alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answers", "show_progress": "hidden"}
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        private: dict[str, Any] = {"api_visibility": "private"}
        changed = [*self._chats, *self._saves, self._box, self._problem, self._retry, self._undo, self._clear]
        given = {self._box, *self._controls.components}
        self._box.submit(self._ask, given, changed, **alone, **private)
        self._retry.click(self._ask_again, given, changed, **alone, **private)
        self._box.stop(self._end_answer, None, None, **at_once, **private)
        self._undo.click(self._take_back, None, changed, **at_once, **private)
        self._clear.click(self._start_anew, None, changed, **at_once, **private)
        for number, save in enumerate(self._saves):
            saved = save.click(self._saver(number), None, [self._record, self._problem], **at_once, **private)
            saved.then(None, self._record, None, js=_DOWNLOAD, **private)
        self.blocks.unload(self._leave)

    # Actions of a tab. Its session is found by the name that Gradio gives the tab.

    def _ask(self, given: _Update, request: gradio.Request) -> Iterator[_Update]:
        message = given[self._box]
        yield from self._answer(self._session(request), message["text"], message["files"], given)

    def _ask_again(self, given: _Update, request: gradio.Request) -> Iterator[_Update]:
        session = self._session(request)
        try:
            question, files = session.undo()
        except MiniCPMVError as error:
            yield self._problem_update(error)
            return
        yield from self._answer(session, question, files, given)

    def _answer(self, session: Session, question: str, files: Sequence[str], given: _Update) -> Iterator[_Update]:
        box, problem = dict[str, Any](), None
        try:
            images, films = check_uploads(files, max_pixels=self._settings.max_image_pixels)
            chosen = self._controls.read(given)
            answering = session.ask(
                question, images, films, settings=chosen.settings, system=chosen.system, seed=chosen.seed
            )
            yield self._while_answering(session)
            for _ in answering:
                yield self._show(session)
        except MiniCPMVError as error:
            box, problem = {"value": {"text": question, "files": list(files)}}, error
        yield self._show(session) | self._at_rest(box) | self._problem_update(problem)

    def _end_answer(self, request: gradio.Request) -> None:
        self._session(request).stop()

    def _take_back(self, request: gradio.Request) -> _Update:
        session = self._session(request)
        try:
            question, files = session.undo()
        except MiniCPMVError as error:
            return self._problem_update(error)
        box = gradio.MultimodalTextbox(value={"text": question, "files": list(files)})
        return self._show(session) | {self._box: box} | self._problem_update(None)

    def _start_anew(self, request: gradio.Request) -> _Update:
        session = self._session(request)
        session.clear()
        return (
            self._show(session) | {self._box: gradio.MultimodalTextbox(value=_EMPTY_BOX)} | self._problem_update(None)
        )

    def _saver(self, number: int) -> Callable[[gradio.Request], _Update]:
        def save(request: gradio.Request) -> _Update:  # not a partial: Gradio would not see that it takes a request
            return self._save(number, request)

        return save

    def _save(self, number: int, request: gradio.Request) -> _Update:
        conversation = self._session(request).conversations[number]
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
        session = self._sessions.pop(str(request.session_hash), None)
        if session is not None:
            session.stop()

    def _session(self, request: gradio.Request) -> Session:
        return self._sessions.setdefault(str(request.session_hash), Session(self._room))

    # Updates of the page.

    def _show(self, session: Session) -> _Update:
        return {
            chat: show_exchanges(conversation.exchanges, session.pending, number)
            for number, (chat, conversation) in enumerate(zip(self._chats, session.conversations, strict=True))
        }

    def _while_answering(self, session: Session) -> _Update:
        box = gradio.MultimodalTextbox(value=_EMPTY_BOX, submit_btn=False, stop_btn=True)
        return self._show(session) | {self._box: box} | self._buttons(False) | self._problem_update(None)

    def _at_rest(self, box: dict[str, Any]) -> _Update:
        """Allow the next question; ``box`` replaces the text that was typed meanwhile."""
        return {self._box: gradio.MultimodalTextbox(submit_btn=True, stop_btn=False, **box)} | self._buttons(True)

    def _buttons(self, are_active: bool) -> _Update:
        buttons = (*self._saves, self._retry, self._undo, self._clear)
        return {button: gradio.Button(interactive=are_active) for button in buttons}

    def _problem_update(self, error: MiniCPMVError | None) -> _Update:
        text = "" if error is None else f'<div role="alert">{html.escape(str(error))}</div>'
        return {self._problem: gradio.HTML(text, visible=error is not None)}
