"""``minicpmv ui`` as a user opens it: in a browser, without a screen."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from minicpmv.cli.main import main
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import load_model
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES
from tests.unit.models.adapters.test_attaching import make_adapter

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = FIXTURES / "v2_6"
IMAGES = [str(MODEL / "images" / name) for name in ("wide_150x80.png", "small_30x80.png")]
QUESTION = "Describe this image in detail."
PASSWORD = "open sesame"


@dataclass(frozen=True, slots=True)
class Shown:
    """A page that is served, and what its process says."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    adapter: Path
    temporary: Path

    def request(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        connection.request("GET" if body is None else "POST", path, body, {"accept": "*/*", **headers})
        response = connection.getresponse()
        connection.close()
        return response.status, response.headers

    def upload(self, size: int, cookie: str = "") -> int:
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%s\r\n--x--\r\n'
        kind = {"content-type": "multipart/form-data; boundary=x", "cookie": cookie}
        return self.request("/gradio_api/upload", form % (b"x" * size), **kind)[0]


def _hear_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore it: these tests, and what they start in turn."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("ui")
    torch.manual_seed(0)
    adapter = make_adapter(folder / "adapter", "v2_6")
    (temporary := folder / "temporary").mkdir()
    log = folder / "log"
    flags = ["--compare", "--port", "0", "--max-new-tokens", "40", "--max-image-bytes", "100000"]
    environment = os.environ | {"TMPDIR": str(temporary), "MINICPMV_UI_PASSWORD": PASSWORD}
    command = [prepared_python(), "-m", "minicpmv", "ui", adapter, *flags]
    with (
        log.open("w") as written,
        started(command, stdout=written, stderr=written, env=environment, preexec_fn=_hear_ctrl_c) as process,
    ):
        address = wait_for(r"^Open (http://127.0.0.1:\d+) in a browser", log, process)[1]
        yield Shown(process, address, log, adapter, temporary)


@pytest.fixture(scope="module")
def opened(shown: Shown) -> Iterator[Any]:
    if _BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.asked_for = []
        page.on("request", lambda request: page.asked_for.append(request.url))
        page.goto(shown.address)
        page.fill("input >> nth=0", "anybody")
        page.fill("input[type=password]", PASSWORD)
        page.press("input[type=password]", "Enter")
        page.wait_for_selector("#box textarea")
        yield page
        browser.close()


@pytest.fixture
def page(opened: Any) -> Any:
    """The one page of all tests, with nothing said on it."""
    opened.click("text=Clear")
    playwright.expect(opened.locator(".bot.message")).to_have_count(0)
    return opened


def ask(page: Any, question: str, images: list[str] | None = None) -> None:
    if images:
        page.set_input_files("#box input[type=file]", images)
        playwright.expect(page.locator("#box .thumbnail-item")).to_have_count(len(images))
    page.fill("#box textarea", question)
    page.press("#box textarea", "Enter")


def wait_for_answers(page: Any, count: int = 1) -> None:
    """Wait until that many questions are answered."""
    playwright.expect(page.locator("#chat-1 .bot.message")).to_have_count(count, timeout=60_000)
    playwright.expect(page.locator("#box .submit-button")).to_be_visible(timeout=60_000)


def answers(page: Any, chat: int) -> list[str]:
    return page.locator(f"#chat-{chat} .bot.message .prose").all_inner_texts()


def said_alone(path: Path, images: list[str]) -> str:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": QUESTION}]
    settings = GenerationSettings(max_new_tokens=40)
    return answer(load_model(path), [{"role": "user", "content": content}], settings=settings)


def plain(text: str) -> str:
    """Leave out what Markdown may do to the nonsense of a random model: only letters and digits stay."""
    return re.sub(r"[\W_]+", "", text)


def test_a_password_closes_everything_but_its_own_question(shown: Shown) -> None:
    assert shown.request("/config")[0] == 401
    assert shown.upload(10) == 401
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert shown.request("/login", b"username=anybody&password=open", **kind)[0] == 400
    status, headers = shown.request("/login", b"username=anybody&password=open+sesame", **kind)
    assert status == 200
    cookie = "; ".join(line.partition(";")[0] for line in headers.get_all("set-cookie") or ())
    assert shown.request("/config", cookie=cookie)[0] == 200
    assert shown.upload(90_000, cookie) == 200
    assert shown.upload(110_000, cookie) == 413, "above --max-image-bytes"


def test_pictures_and_a_question_are_answered_side_by_side(page: Any, shown: Shown) -> None:
    ask(page, QUESTION, IMAGES)
    wait_for_answers(page)
    for chat, model in enumerate((shown.adapter, MODEL)):
        assert page.locator(f"#chat-{chat} .user-row img").count() == 2
        (said,) = answers(page, chat)
        assert plain(said) == plain(said_alone(model, IMAGES))
    assert {urlsplit(url).netloc for url in page.asked_for if not url.startswith(("data:", "blob:"))} == {
        urlsplit(shown.address).netloc
    }, "nothing comes from another machine"


def test_an_answer_is_shown_as_it_is_written_and_can_be_stopped(page: Any) -> None:
    """What is asked next may be written meanwhile. Then the stopped answer is retried, and taken back."""
    page.fill("#controls input[type=number] >> nth=0", "2000")
    ask(page, QUESTION)
    page.wait_for_function("document.querySelector('#chat-1 .bot.message .prose')?.innerText.length > 20")
    page.fill("#box textarea", "And then?")
    page.click("#box .stop-button")
    wait_for_answers(page)
    assert answers(page, 1)[0].endswith("(stopped)"), "so it was not whole when it was seen"
    assert page.input_value("#box textarea") == "And then?"
    page.fill("#controls input[type=number] >> nth=0", "3")
    page.click("text=Retry")
    playwright.expect(page.locator("#chat-1 .bot.message .prose")).not_to_contain_text("(stopped)", timeout=30_000)
    wait_for_answers(page)
    page.click("text=Undo")
    playwright.expect(page.locator("#box textarea")).to_have_value(QUESTION)
    assert answers(page, 0) == answers(page, 1) == []
    page.fill("#controls input[type=number] >> nth=0", "40")


def test_the_saved_conversation_passes_the_check(page: Any, tmp_path: Path) -> None:
    ask(page, QUESTION, IMAGES[:1])
    wait_for_answers(page)
    with page.expect_download() as download:
        page.click("text=Save as training record >> nth=1")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert re.fullmatch(r"conversation-\d{8}-\d{6}\.json", file.name)
    assert main(["check", str(file)]) == 0
    (record,) = json.loads(file.read_text(encoding="utf-8"))
    assert record["conversations"][1]["content"] == said_alone(MODEL, IMAGES[:1])


def test_an_error_is_shown_in_words_and_the_conversation_goes_on(page: Any, shown: Shown, tmp_path: Path) -> None:
    ask(page, "Hello?")
    wait_for_answers(page)
    alert, tiles = page.locator("#problem [role=alert]"), page.get_by_label("Most tiles of an image")
    tiles.fill("many")
    ask(page, "And now?")
    playwright.expect(alert).to_contain_text("Most tiles of an image: found something else, expected a whole number")
    tiles.fill("")
    (tmp_path / "cat.png").write_text("no picture")
    ask(page, "And this?", [str(tmp_path / "cat.png")])
    playwright.expect(alert).to_contain_text("image cat.png: found 10 bytes that are no image")
    playwright.expect(alert).to_contain_text("fix: save or download the image again")
    playwright.expect(page.locator("#box textarea")).to_have_value("And this?")
    assert len(answers(page, 0)) == 1
    page.click("text=Clear")
    playwright.expect(alert).to_have_count(0)
    ask(page, "Hello?")
    wait_for_answers(page)
    assert len(answers(page, 0)) == 1
    assert "Traceback" not in shown.log.read_text()


def test_ctrl_c_ends_it_and_leaves_no_pictures(page: Any, shown: Shown) -> None:
    """The last one here: the page is still open, and an answer is being written."""
    ask(page, QUESTION, IMAGES[:1])
    assert list(shown.temporary.glob("minicpmv-ui-*/**/wide_150x80.png"))
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(timeout=30) == 130
    log = shown.log.read_text()
    assert log.endswith("interrupted\n"), log
    assert "Traceback" not in log
    assert list(shown.temporary.glob("minicpmv-ui-*")) == []
