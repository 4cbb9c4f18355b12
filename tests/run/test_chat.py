"""``minicpmv chat`` as a user types it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from minicpmv.cli.main import main
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.terminal.escapes import escape
from tests.docs.repository import ROOT, code_blocks
from tests.films import make_film
from tests.parity.cases import FIXTURES
from tests.processes import started
from tests.run.forked import minicpmv
from tests.run.prepared import prepared_python
from tests.tiny import save_picture

SLICED = "images/wide_150x80.png"


def released_answer(version: str, name: str) -> str:
    entries = json.loads((FIXTURES / version / "inference.json").read_text(encoding="utf-8"))["entries"]
    return next(entry for entry in entries if entry["name"] == name)["generated_text"]


@pytest.mark.parametrize("version", ["v2_6", *(pytest.param(each, marks=pytest.mark.slow) for each in ("v2", "v2_5"))])
def test_one_question_about_a_picture_gets_the_released_answer(version: str) -> None:
    model = FIXTURES / version
    image = model / "images" / "sq_50x50.png"
    done = minicpmv("chat", model, "--image", image, "What is in the image?", "--max-new-tokens", "12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == escape(released_answer(version, "image_unsliced").strip())


def test_a_dialogue_remembers_what_was_said_and_shown() -> None:
    model = FIXTURES / "v2_6"
    typed = "Hello world, how are you?\n/image {0}\nAnd this one?\n/reset\nHello world, how are you?\n"
    done = minicpmv("chat", model, "--max-new-tokens", "6", typed=typed.format(model / SLICED))
    assert done.returncode == 0, done.stderr
    alone = minicpmv("chat", model, "--max-new-tokens", "6", "Hello world, how are you?").stdout
    assert done.stdout.startswith(alone)
    assert done.stdout.endswith(alone), "after /reset the first question is answered as if nothing had been said"
    assert len(done.stdout) > 2 * len(alone)


class Typist:
    """Somebody at a terminal, in front of ``minicpmv chat``."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self._terminal, self.process = terminal, process
        self.shown = ""
        self._prompts = 1

    def wait_for(self, text: str, *, times: int = 1, within_seconds: float = 60) -> None:
        """Read on until a text was shown so many times."""
        end = time.monotonic() + within_seconds
        while self.shown.count(text) < times:
            assert time.monotonic() < end, self.shown
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.shown += (
                    os.read(self._terminal, 65536).decode(errors="replace").replace("\r\n", "\n").replace("\a", "")
                )

    def wait_for_more(self, length: int) -> None:
        """Read on until so much was shown beside what is."""
        length += len(self.shown)
        while len(self.shown) < length:
            self.shown += os.read(self._terminal, 65536).decode(errors="replace")

    def wait_for_prompt(self) -> None:
        """Read on until a new line may be typed."""
        self.wait_for("\nyou: ", times=self._prompts)
        self._prompts += 1

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())


def _take_terminal() -> None:
    """Let Ctrl-C be a signal, also where the tests were started with that signal ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def typing(*arguments: str | Path, **environment: str) -> Iterator[Typist]:
    terminal, inner = os.openpty()
    with (
        open(terminal, "rb", buffering=0),
        started(
            [prepared_python(), "-m", "minicpmv", "chat", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env=os.environ | {"TERM": "xterm"} | environment,
        ) as process,
    ):
        os.close(inner)
        yield Typist(terminal, process)


def test_a_dialogue_at_a_terminal(tmp_path: Path) -> None:
    """Completion, history, several lines, wrong commands, Ctrl-C in an answer and at the prompt, saving, Ctrl-D."""
    model = FIXTURES / "v2_6"
    save_picture(tmp_path / "a cat.png")
    with typing(model, "--max-new-tokens", "1500", NO_COLOR="1") as typist:
        typist.wait_for_prompt()
        typist.type("/ima\t")
        typist.wait_for("/image")
        typist.type(f" {tmp_path}/a\t\n")
        typist.wait_for(f"{tmp_path}/a cat.png")
        for typed, shown in [
            ("/immage x", "/immage: found no such command, expected one of /image, /video, /images, /undo"),
            ("/reset now", "/reset: found '/reset now', expected /reset"),
            ("/images", f"/images\n{tmp_path}/a cat.png"),
            ("/reset", "(a new dialogue)"),
        ]:
            typist.wait_for_prompt()
            typist.type(f"{typed}\n")
            typist.wait_for(shown)
        typist.wait_for_prompt()
        typist.type("Describe this image\\\n")
        typist.wait_for("...: ")
        typist.type("in detail.\n")
        typist.wait_for_more(200)  # some of the answer
        typist.type("\x03")
        typist.wait_for("(stopped; ")
        typist.wait_for_prompt()
        typist.type(f"/save {tmp_path}/said.json\n")
        typist.wait_for("holds an answer that was stopped")
        typist.wait_for_prompt()
        typist.type("typed for nothing")
        typist.wait_for("typed for nothing")
        time.sleep(0.3)  # as fingers need; Python's readline misses a signal that comes between an echo and its waiting
        typist.type("\x03")
        typist.wait_for_prompt()
        typist.type("\x1b[A")  # the last line that was sent, from the history
        typist.wait_for("/said.json", times=4)  # typed, saved, noticed, and back
        typist.type("\x15\x04")  # Ctrl-U takes it away, so that Ctrl-D ends
        assert typist.process.wait(timeout=30) == 0
        assert "Traceback" not in typist.shown
        assert "\x1b[1m" not in typist.shown, "NO_COLOR"
    (record,) = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    question, said = (message["content"] for message in record["conversations"])
    assert question == "Describe this image\nin detail."
    assert 0 < len(said) < 1500


def test_lines_that_are_piped_in_are_commands_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = FIXTURES / "v2_6", tmp_path / "said.jsonl"
    lines = [
        "Hello\\",
        "world?",
        "/undo",
        f"/image {model / SLICED}",
        "/images",
        "What is it?",
        f"/save {file}",
        "/quit",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "No more."])))
    assert main(["chat", str(model), "--max-new-tokens", "6"]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    question, said = (message["content"] for message in record["conversations"])
    assert question == "<image>\nWhat is it?"
    shown = capsys.readouterr().out
    assert shown.endswith(f"\n{model / SLICED}\n{said}\n")
    assert "\x1b" not in shown


def test_a_wrong_command_that_is_piped_in_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/nonsense\nHello?\n"))
    assert main(["chat", str(FIXTURES / "v2_6")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "/nonsense: found no such command" in shown.err


def test_a_film_is_asked_about_and_the_times_of_its_frames_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(tmp_path / "a.mp4", num_frames=75)
    monkeypatch.chdir(tmp_path)
    flags = ["--video-fps", "2", "--start", "1", "--end", "2.5", "--max-new-tokens", "8"]
    assert main(["chat", str(FIXTURES / "v2_6"), "What happens?", "--video", "a.mp4", *flags]) == 0
    one = capsys.readouterr()
    assert one.err.startswith("(a.mp4: 4 frames of 3 s, at 1, 1.48, 1.96, 2.44 s)")
    assert main(["chat", str(FIXTURES / "v2_5"), "What happens?", "--video", "a.mp4"]) == 2
    assert "--video: found a film for openbmb/MiniCPM-Llama3-V-2_5, expected none, because" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("/video a.mp4\n/images\nWhat happens?\n/save said.json\n"))
    assert main(["chat", str(FIXTURES / "v2_6"), *flags]) == 0
    assert capsys.readouterr().out == f"a.mp4\n{one.out}"
    (record,) = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert record["videos"] == [{"video": str(tmp_path / "a.mp4"), "start": 1.0, "end": 2.5, "fps": 2.0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "hi"], "found no directory 'nowhere/at/all'"),
        ([FIXTURES / "v2_6", "--image", "no.png", "hi"], "found no file 'no.png'"),
        ([FIXTURES / "v2_6", "--video", "no.mp4", "hi"], "no.mp4: found no such file"),
        (
            [FIXTURES / "v2_6", "--video", "no.mp4", "--start", "-1", "hi"],
            "no.mp4: start: found -1.0, expected seconds",
        ),
        ([FIXTURES / "v2_6", "--max-frames", "3", "hi"], "--max-frames: found without --video, expected a film"),
        ([FIXTURES / "components", "hi"], "found neither config.json nor adapter_config.json"),
        ([FIXTURES / "v2", "--system", "Be brief.", "hi"], "found 'system', expected one of user, assistant"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(arguments: list[str | Path], message: str) -> None:
    done = minicpmv("chat", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_adapter_without_its_base_names_both(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/base"}', encoding="utf-8")
    done = minicpmv("chat", tmp_path, "hi")
    assert done.returncode == 2
    assert "names '/gone/base', found no such directory" in done.stderr


def test_thinking_is_shown_as_it_is_written() -> None:
    """The released thinking answer; without the option the model is told not to think, and answers otherwise."""
    model = FIXTURES / "v4_5"
    question = ("--image", model / "images" / "sq_50x50.png", "What is in the image?", "--max-new-tokens", "12")
    thinking = minicpmv("chat", model, "--thinking", *question)
    assert thinking.returncode == 0, thinking.stderr
    assert thinking.stdout.strip() == escape(released_answer("v4_5", "thinking").strip())
    plain = minicpmv("chat", model, *question)
    assert plain.returncode == 0, plain.stderr
    assert not plain.stdout.startswith("<think>")


@pytest.mark.parametrize("command", ["chat", "eval"])
def test_a_version_without_thinking_says_so_before_it_is_loaded(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((FIXTURES / "v2_6" / "config.json").read_bytes())  # and no weights
    data = tmp_path / "data.json"
    data.write_text('[{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]')
    done = minicpmv(command, tmp_path, data if command == "eval" else "hi", "--thinking")
    assert done.returncode == 2
    assert (
        "found it asked of openbmb/MiniCPM-V-2_6, expected a version with a thinking mode (4.5 and later)"
        in done.stderr
    )
    assert "fix:" in done.stderr


def test_examples_of_official_scripts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the page has them, one after another, but for names of directories and shorter answers."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", *(f"frame{number}.jpg" for number in range(4))):
        save_picture(tmp_path / name)
    generate = cast("Any", MiniCPMVForConditionalGeneration).generate
    monkeypatch.setattr(
        MiniCPMVForConditionalGeneration,
        "generate",
        lambda self, **given: generate(self, **(given | {"max_new_tokens": 4})),
    )
    examples = [block for block in code_blocks(ROOT / "docs/inference.md", "python") if "model.chat(" in block]
    assert len(examples) == 4
    names = {"V-2": "v2", "Llama3-V-2_5": "v2_5", "V-2_6": "v2_6", "V-4_5": "v4_5"}
    values: dict[str, Any] = {}
    for example in examples:
        for released, folder in names.items():
            example = example.replace(f'"openbmb/MiniCPM-{released}"', repr(str(FIXTURES / folder)))
        assert "openbmb/" not in example
        exec(compile(example, "docs/inference.md", "exec"), values)
    assert capsys.readouterr().out
    assert len(values["answers"]) == 2
    assert values["context"][-1] == {"role": "assistant", "content": values["context"][-1]["content"]}
    assert isinstance(values["res"], str)
    assert isinstance(values["answer"], str)
