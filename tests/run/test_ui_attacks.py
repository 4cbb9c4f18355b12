"""What a visitor, or another web page, tries with ``minicpmv ui``: files that were never uploaded stay unread."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.films import make_film
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES, save_picture

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the page's library is not installed")

_FILE = {"_type": "gradio.FileData"}
_SECRET = b"the secret of the machine"


class Visitor:
    """Talks to the page without its script."""

    def __init__(self, port: int, host: str | None = None) -> None:
        self._port, self._host = port, host or f"127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        kind = {"host": self._host, "origin": f"http://{self._host}", "content-type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, body, kind | headers)
            with connection.getresponse() as response:
                return response.status, response.read()

    def event(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the event that a question is, and the components whose values it has."""
        config = json.loads(self.ask("GET", "/config")[1])
        parts = {part["id"]: part for part in config["components"]}
        kinds = [(event, [parts[number] for number in event["inputs"]]) for event in config["dependencies"]]
        return next((event, of) for event, of in kinds if any(part["type"] == "multimodaltextbox" for part in of))

    def send(self, values: list[Any], event: dict[str, Any], session: str, **more: Any) -> tuple[int, str]:
        """Ask a question with these values; return the status, and all that the page is then sent."""
        body = {"data": values, "fn_index": event["id"], "session_hash": session, **more}
        status, said = self.ask("POST", "/gradio_api/queue/join?", json.dumps(body).encode())
        if status != 200:
            return status, said.decode()
        seen, connection = "", http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", f"/gradio_api/queue/data?session_hash={session}", headers={"host": self._host})
            with connection.getresponse() as stream:
                while "process_completed" not in seen and (line := stream.readline()):
                    seen += line.decode()
        return status, seen


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Serve a page without a password; yield its port and the folder of uploads."""
    temporary = tmp_path_factory.mktemp("temporary")
    log = tmp_path_factory.mktemp("log") / "log"
    command = [prepared_python(), "-m", "minicpmv", "ui", FIXTURES / "v2_6", "--port", "0", "--max-new-tokens", "4"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with log.open("w") as written, started(command, stdout=written, stderr=written, env=environment) as process:
        yield int(wait_for(r"^Open http://127.0.0.1:(\d+) in a browser", log, process)[1]), temporary
        process.terminate()
        assert process.wait(timeout=30) == 0, "also after everything that was tried"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (path := tmp_path / "secret.txt").write_bytes(_SECRET)
    return path


def _values(components: list[dict[str, Any]], box: Any, **changed: Any) -> list[Any]:
    """Return what the page would send, with another value for the box and for components of some labels."""
    values: list[Any] = []
    for component in components:
        props = component["props"]
        value = box if component["type"] == "multimodaltextbox" else props.get("value")
        values.append(changed.get(props.get("label") or "", value))
    return values


def test_a_file_object_in_any_field_is_refused_and_never_copied(page: tuple[int, Path], secret: Path) -> None:
    port, temporary = page
    visitor = Visitor(port)
    event, components = visitor.event()
    for shape in ({"meta": _FILE}, {}, {"url": f"http://127.0.0.1:{port}/x"}, {"meta": _FILE, "is_stream": True}):
        evil = {"path": str(secret), **shape}
        for number in range(len(components)):
            values = _values(components, {"text": "hi", "files": []})
            for wrapped in (evil, [evil], {"text": "hi", "files": [evil]}):
                values[number] = wrapped
                status, said = visitor.send(values, event, "s1")
                assert status == 400, said
                assert str(secret) not in said
        status, said = visitor.send(_values(components, {"text": "hi", "files": []}), event, "s1", event_data=evil)
        assert status == 400, said
    assert not [path for path in temporary.rglob("*") if path.is_file() and path.read_bytes() == _SECRET]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "missing", "relative", "nul", "upwards"])
def test_a_path_that_is_no_uploaded_file_is_refused_at_once(
    kind: str, page: tuple[int, Path], secret: Path, tmp_path: Path
) -> None:
    port, temporary = page
    (uploads,) = temporary.glob("minicpmv-ui-*")
    if kind == "fifo":
        os.mkfifo(path := uploads / f"fifo-{os.getpid()}")
    elif kind == "link":
        (path := uploads / f"link-{os.getpid()}").symlink_to(secret)
    else:
        others = {"folder": uploads, "missing": tmp_path / "x", "relative": "pyproject.toml", "nul": "/etc/\0passwd"}
        path = others.get(kind, f"{uploads}/../../{secret}")
    visitor = Visitor(port)
    event, components = visitor.event()
    box = {"text": "hi", "files": [{"path": str(path), "meta": _FILE}]}
    status, said = visitor.send(_values(components, box), event, "s1")
    assert status == 400
    assert said.startswith("found a file that was not uploaded, expected ")
    assert visitor.ask("GET", "/config")[0] == 200


def _ask_about(visitor: Visitor, name: str, content: bytes, session: str) -> str:
    """Upload a file and ask about it; return all that the page is then sent."""
    event, components = visitor.event()
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    status, said = visitor.ask("POST", "/gradio_api/upload", form % (name.encode(), content), **kind)
    assert status == 200
    (path,) = json.loads(said)
    box = {"text": "hi", "files": [{"path": path, "meta": _FILE}]}
    status, said = visitor.send(_values(components, box), event, session)
    assert status == 200
    assert '"success":true' in said.replace(" ", "")
    return said


def test_an_uploaded_picture_is_answered(page: tuple[int, Path], tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 60, 60, seed=1)
    assert '"found' not in _ask_about(Visitor(page[0]), "a.png", (tmp_path / "a.png").read_bytes(), "s2")


def test_an_uploaded_film_is_answered_and_a_hostile_one_refused_in_words(
    page: tuple[int, Path], tmp_path: Path
) -> None:
    visitor = Visitor(page[0])
    whole = Path(make_film(tmp_path / "a.mp4", num_frames=30)).read_bytes()
    assert "expected" not in _ask_about(visitor, "a.mp4", whole, "s3")
    for content in (b"#EXTM3U\n/etc/passwd\n", os.urandom(9000), whole[: len(whole) // 2], b"no film"):
        assert "film b.mp4: found" in _ask_about(visitor, "b.mp4", content, "s4")


@pytest.mark.parametrize("value", [[], {"a": 1}, "1" * 5000, "x", True, -1, 10**30])
def test_values_of_other_types_end_in_words_that_repeat_none_of_them(value: Any, page: tuple[int, Path]) -> None:
    port, _ = page
    visitor = Visitor(port)
    event, components = visitor.event()
    changed = {"Most tiles of an image": value, "Longest answer": value}
    for label in changed:
        values = _values(components, {"text": "hi", "files": []}, **{label: value})
        _, said = visitor.send(values, event, "s3")
        assert "Traceback" not in said
        assert "1" * 5000 not in said
        assert visitor.ask("GET", "/config")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_rebound_web_page_is_refused(host: str, page: tuple[int, Path]) -> None:
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/upload")):
        status, said = Visitor(page[0], host).ask(method, path, b"" if method == "POST" else None)
        assert status == 403
        assert b"expected the name or the address of this server" in said


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://"])
def test_another_page_can_send_nothing(origin: str, page: tuple[int, Path]) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x", "origin": origin}
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n--x--\r\n'
    assert Visitor(page[0]).ask("POST", "/gradio_api/upload", form, **kind)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1/x",
        "/gradio_api/run/other",
        "/gradio_api/api/predict",
        "/gradio_api/call/predict",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-code",
        "/gradio_api/component_server",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/run-history/records",
        "/gradio_api/file/etc/passwd",
        "/monitoring",
        "/gradio_api/deep_link",
        "/gradio_api/custom_component/a/client/b/c.js",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_parts_of_gradio_that_the_page_does_not_use_are_not_there(
    method: str, path: str, page: tuple[int, Path]
) -> None:
    assert Visitor(page[0]).ask(method, path, b"{}" if method == "POST" else None)[0] == 404


def test_only_uploads_are_handed_out(page: tuple[int, Path], secret: Path) -> None:
    for path in (secret, "/etc/passwd", "../../etc/passwd", "%2fetc%2fpasswd"):
        status, said = Visitor(page[0]).ask("GET", f"/gradio_api/file={path}")
        assert status in (403, 404)
        assert _SECRET not in said


def test_a_browser_fetches_nothing_that_a_text_names(page: tuple[int, Path]) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page()
        asked: list[str] = []
        refused: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("requestfailed", lambda request: refused.append(f"{request.url} {request.failure}"))
        tab.goto(f"http://127.0.0.1:{page[0]}")
        tab.wait_for_selector("#box textarea")
        tab.fill(
            "#box textarea",
            "![t](http://192.0.2.1/a.png) ![u][v]\n\n[v]: http://192.0.2.1/b.png\n<img src=//192.0.2.1/c>",
        )
        tab.press("#box textarea", "Enter")
        driver.expect(tab.locator(".bot.message")).to_have_count(1, timeout=60_000)
        assert "![t](http://192.0.2.1/a.png)" in tab.locator(".user-row").inner_text()
        assert [url for url in asked if "192.0.2.1" in url] == []
        # And where escaping should fail, the page's policy holds.
        tab.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/d.png'}))")
        tab.wait_for_timeout(300)
        browser.close()
    assert [text for text in refused if "192.0.2.1" in text] == ["http://192.0.2.1/d.png csp"]
