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
HOSTILE = "**bold** $$x$$ <b>tag</b>\n\n  - [link](javascript:alert(1)) `code` &lt; ![x](http://nowhere.example/x.png)"
INSTRUCTION, RECORD_QUESTION = "Answer in one word.", "What is it?"
SHORT = 3
"""Tokens of the answer that a record expects."""

_FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8").partition("\n")[2]


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
    log, data = folder / "log", folder / "data.json"
    asked = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": f"<image>\n{RECORD_QUESTION}"}]
    told = {"role": "assistant", "content": said_alone(MODEL, IMAGES[1:], RECORD_QUESTION, SHORT, INSTRUCTION)}
    records = [{"conversations": asked[1:2]}, {"id": "b7", "conversations": [*asked, told]}]
    data.write_text(json.dumps([record | {"image": IMAGES[1]} for record in records]), encoding="utf-8")
    flags = ["--compare", "--port", "0", "--max-new-tokens", "40", "--max-image-bytes", "100000", "--data", str(data)]
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
        page = browser.new_context().new_page()
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
    if opened.is_enabled("text=Clear"):
        opened.click("text=Clear")
        playwright.expect(opened.locator("text=Clear")).to_be_disabled()
    playwright.expect(opened.locator(".bot.message, #box .thumbnail-item")).to_have_count(0)
    opened.fill("#box textarea", "")
    opened.get_by_label("System prompt").fill("")
    set_longest(opened, 40)
    return opened


def set_longest(page: Any, tokens: int) -> None:
    page.fill("#controls input[type=number] >> nth=0", str(tokens))


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
    return page.locator(f"#chat-{chat} .bot.message .prose:not(:has(.facts))").all_inner_texts()


def written(page: Any, chat: int) -> list[str]:
    """Return the answers, character for character."""
    return page.locator(f"#chat-{chat} .bot.message").locator("pre.written, pre.plain").all_text_contents()


def said_alone(
    path: Path, images: list[str], question: str = QUESTION, tokens: int = 40, system: str | None = None
) -> str:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    told = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    settings = GenerationSettings(max_new_tokens=tokens)
    return answer(load_model(path), [*told, {"role": "user", "content": content}], settings=settings)


def base_name() -> str:
    """As the page shortens it: relative, if it is below the folder in which the page was started."""
    return str(MODEL.relative_to(Path.cwd())) if MODEL.is_relative_to(Path.cwd()) else str(MODEL)


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


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_opens_at_its_title_and_says_what_to_do(opened: Any, width: int) -> None:
    fresh = opened.context.new_page()
    fresh.set_viewport_size({"width": width, "height": 900})
    fresh.goto(opened.url)
    fresh.wait_for_selector('#talk[role="region"]')
    assert fresh.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, width]
    assert (fresh.evaluate("document.activeElement.tagName") == "TEXTAREA") is (width > 700), (
        "a phone's keys would rise"
    )
    playwright.expect(fresh.locator("#chat-1")).to_contain_text(
        "Drop a picture or a film here, or press the paper clip"
    )
    for button in ("Retry", "Undo", "Clear", "Save as training record >> nth=1", "Previous"):
        playwright.expect(fresh.locator(f"text={button}")).to_be_disabled()
    for is_dark in (False, True):
        assert fresh.evaluate(_FAULTS, is_dark) == []
    fresh.close()


def test_an_adapter_and_its_base_are_tuned_and_base(page: Any, shown: Shown) -> None:
    assert page.locator(".speaker h2").all_inner_texts() == [f"tuned {shown.adapter}", f"base {base_name()}"]


def test_a_question_is_shown_as_it_is_and_answers_in_plain_text_are(page: Any, shown: Shown) -> None:
    """And in either form the copy of an answer is what the model wrote."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, HOSTILE)
    wait_for_answers(page)
    alone = said_alone(MODEL, [], HOSTILE)
    for is_plain in (False, True):
        page.set_checked("#plain input", is_plain)
        playwright.expect(page.locator("#chat-1 .bot pre.plain")).to_have_count(int(is_plain))
        assert page.locator("#chat-1 .user pre.plain").text_content() == HOSTILE
        assert page.locator("#chat-1 .user :is(a, strong, code, img, .katex)").count() == 0
        assert written(page, 1) == [alone]
        page.evaluate("navigator.clipboard.writeText('')")
        page.hover("#chat-1 .bot-row")
        page.click("#chat-1 .message-buttons-left button[aria-label='Copy message']")
        page.wait_for_function("async () => await navigator.clipboard.readText() !== ''")
        assert page.evaluate("navigator.clipboard.readText()") == alone
    page.set_checked("#plain input", False)


def test_a_record_is_asked_and_its_answer_compared(page: Any, shown: Shown) -> None:
    """What was written over is no longer the record's question, and has no expected answer."""
    page.fill("#record-number input", "1")
    page.press("#record-number input", "Enter")
    playwright.expect(page.locator("#record-name")).to_have_text("of 2 in data.json: b7.")
    playwright.expect(page.locator("#box textarea")).to_have_value(RECORD_QUESTION)
    playwright.expect(page.locator("#box .thumbnail-item")).to_have_count(1)
    playwright.expect(page.locator("text=Next")).to_be_disabled()
    assert page.get_by_label("System prompt").input_value() == INSTRUCTION
    set_longest(page, SHORT)
    page.press("#box textarea", "Enter")
    wait_for_answers(page)
    expected = said_alone(MODEL, IMAGES[1:], RECORD_QUESTION, SHORT, INSTRUCTION)
    for chat, verdict in enumerate(("✗ wrong", "✓ right")):
        assert page.text_content(f"#chat-{chat} .expectation") == f"expected {verdict}{expected}"
        facts = page.text_content(f"#chat-{chat} .facts")
        assert re.match(r"30 × 80 px: no tiles, \d+ image tokens · answer: 3 tokens, the first after ", facts), facts
    for is_dark in (True, False):
        assert page.evaluate(_FAULTS, is_dark) == []
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 720})
        assert page.evaluate(_FAULTS, False) == []
    page.click("text=Previous")
    playwright.expect(page.locator("#box textarea")).to_have_value(RECORD_QUESTION)
    playwright.expect(page.locator(".bot.message")).to_have_count(0)
    assert page.get_by_label("System prompt").input_value() == ""
    page.click("text=Next")
    playwright.expect(page.locator("#record-name")).to_contain_text("b7")
    page.fill("#box textarea", "What else?")
    page.press("#box textarea", "Enter")
    wait_for_answers(page)
    assert page.locator(".expectation").count() == 0


def test_records_make_no_other_file_readable(page: Any, shown: Shown) -> None:
    page.fill("#record-number input", "7")
    page.press("#record-number input", "Enter")
    playwright.expect(page.locator("#problem")).to_contain_text("found another number, expected one from 0 to 1")
    page.fill("#record-number input", "1")
    page.press("#record-number input", "Enter")
    copy = page.locator("#box .thumbnail-item img").get_attribute("src")
    assert page.request.get(copy).status == 200
    for file in (IMAGES[1], IMAGES[0], str(shown.log.with_name("data.json"))):
        assert page.request.get(f"{shown.address}/gradio_api/file={file}").status in (403, 404)


def test_pictures_and_a_question_are_answered_side_by_side(page: Any, shown: Shown) -> None:
    ask(page, QUESTION, IMAGES)
    wait_for_answers(page)
    for chat, model in enumerate((shown.adapter, MODEL)):
        assert page.locator(f"#chat-{chat} .user-row img").count() == 2
        alone = said_alone(model, IMAGES)
        assert written(page, chat) == [alone]
        (said,) = answers(page, chat)
        assert plain(said) == plain(alone)
    assert {urlsplit(url).netloc for url in page.asked_for if not url.startswith(("data:", "blob:"))} == {
        urlsplit(shown.address).netloc
    }, "nothing comes from another machine"


def test_an_answer_is_shown_as_it_is_written_and_can_be_stopped(page: Any) -> None:
    """What is asked next may be written meanwhile. Then the stopped answer is retried, and taken back."""
    set_longest(page, 2000)
    ask(page, QUESTION)
    page.wait_for_function("document.querySelector('#chat-1 .bot.message .prose')?.innerText.length > 20")
    page.fill("#box textarea", "And then?")
    page.click("#box .stop-button")
    wait_for_answers(page)
    assert answers(page, 1)[0].endswith("(stopped)"), "so it was not whole when it was seen"
    assert page.input_value("#box textarea") == "And then?"
    set_longest(page, 3)
    page.click("text=Retry")
    playwright.expect(page.locator("#chat-1 .bot.message .prose >> nth=0")).not_to_contain_text(
        "(stopped)", timeout=30_000
    )
    wait_for_answers(page)
    page.click("text=Undo")
    playwright.expect(page.locator("#box textarea")).to_have_value(QUESTION)
    assert answers(page, 0) == answers(page, 1) == []


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
