"""The page of a run in a browser: what its script does; and the page that follows a run."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.errors import UsageError
from minicpmv.report.following import LivePage, follow, has_begun
from minicpmv.report.writing import write_report
from tests.tiny import save_picture
from tests.unit.report.runs import LOG, answer_line, leave_lock, write_lines, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_WORDS = (
    "the chart shows a rising line of monthly sales with two dips in spring and autumn, and a legend of three names "
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if _BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of a run with 500 long answers, of which the last half are wrong."""
    return write_page(tmp_path_factory, 500)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of a run with 20, which a browser opens at once."""
    return write_page(tmp_path_factory, 20)


def write_page(tmp_path_factory: pytest.TempPathFactory, number: int) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), working_directory=str(tmp_path_factory.mktemp("pictures")))
    pictures = Path(json.loads((run / "run.json").read_text(encoding="utf-8"))["working_directory"])
    save_picture(pictures / "a.png", 300, 200)
    texts = [f"{index}: {_WORDS * 8}"[:900] for index in range(number)]
    for name in ("before", "after"):
        lines = [
            answer_line(
                f"r{index}", text if index < number / 2 else f"{text} {name}", text, index=index, images=["a.png"]
            )
            for index, text in enumerate(texts)
        ]
        write_lines(run / f"{name}.jsonl", lines)
    return write_report([str(run)], num_examples=number).page


def open_page(browser: Any, address: str, width: int = 1280) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.faults = faults
    page.goto(address)
    return page


def test_500_long_answers_make_a_page_that_can_be_read(browser: Any, path: Path) -> None:
    page = open_page(browser, path.as_uri(), 390)
    playwright.expect(page.locator(".plot svg").first).to_be_visible()
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollHeight") < 12_000, width
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert path.stat().st_size < 5_000_000
    assert page.faults == []
    page.close()


def test_answers_are_found_filtered_and_unfolded(browser: Any, path: Path) -> None:
    page = open_page(browser, path.as_uri())
    cards = page.locator(".card:visible")
    playwright.expect(cards).to_have_count(8)
    assert cards.first.locator(".change").inner_text() == "wrong as before"
    page.locator(".more button").click()
    playwright.expect(cards).to_have_count(24)
    page.get_by_role("button", name="right as before").click()
    playwright.expect(page.locator(".more [role=status]")).to_have_text("8 of 250")
    page.locator(".find input").fill("R249")
    playwright.expect(cards).to_have_count(1)
    text = cards.first.locator(".expected .clamp")
    folded = text.bounding_box()["height"]
    cards.first.locator(".expected .unfold").click()
    assert text.bounding_box()["height"] > folded
    assert cards.first.locator("img").evaluate("image => image.naturalWidth") == 300, "a picture of all records"
    cards.first.locator(".enlarge").click()
    playwright.expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    playwright.expect(page.locator("dialog")).to_be_hidden()
    page.locator(".find input").fill("no such text")
    playwright.expect(page.locator(".more [role=status]")).to_have_text("no answer has this text")
    page.close()


def test_values_of_a_curve_are_read_out_by_arrow_keys(browser: Any, short: Path) -> None:
    page = open_page(browser, short.as_uri())
    chart = page.locator('[data-chart="loss"]')
    chart.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    playwright.expect(chart.locator("[aria-live]")).to_have_text("step 2 , training 2, validation 2.5")
    page.close()


def test_without_scripts_the_loss_is_a_picture(browser: Any, short: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(short.as_uri())
    playwright.expect(page.get_by_role("img", name="training and validation loss by step")).to_be_visible()
    playwright.expect(page.locator(".card")).to_have_count(20)
    context.close()


class Following:
    """Serves the page of a run in a thread."""

    def __init__(self, run: Path) -> None:
        self.live = LivePage([str(run)], before=None, after=None, num_examples=3)
        ready, self.address = threading.Event(), ""

        def tell(address: str) -> None:
            self.address = address
            ready.set()

        threading.Thread(target=follow, args=(self.live,), kwargs={"port": 0, "on_ready": tell}, daemon=True).start()
        assert ready.wait(20)

    def ask(self, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.address.rpartition(":")[2]), timeout=20)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_page_that_follows_a_run_shows_its_next_steps(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, status="running", log=None)
    leave_lock(run, host="another")
    write_lines(run / "log.jsonl", LOG[:1])
    following = Following(run)
    page = open_page(browser, following.address)
    playwright.expect(page.locator(".page-header .facts")).to_contain_text("1 of 6")
    write_lines(run / "log.jsonl", LOG)
    playwright.expect(page.locator(".page-header .facts")).to_contain_text("3 of 6", timeout=20_000)
    assert not (run / "report.html").exists(), "nothing is written"
    page.close()


def test_only_the_page_is_served_and_only_under_its_own_name(tmp_path: Path) -> None:
    following = Following(write_run(tmp_path))
    assert following.ask("/")[0] == 200
    assert following.ask("/", host="localhost:1")[0] == 200
    assert following.ask("/version")[1].decode() == following.live.version()
    assert [following.ask(path)[0] for path in ("/run.json", "/../run.json", "//run.json", "/?x", "/version/")] == [
        404
    ] * 5
    assert following.ask("/", host="evil.example")[0] == 403
    assert following.ask("/", host="127.0.0.1.evil.example")[0] == 403


def test_what_is_no_run_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the --output_dir of a run"):
        LivePage([str(tmp_path)], before=None, after=None, num_examples=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--follow", "--output", "a.html"], "--output: found with --follow"),
        (["--port", "1"], "--port: found without --follow"),
        (["--follow", "--port", "70000"], "--port: found 70000, expected 0 to 65535"),
    ],
)
def test_wrong_use_of_following_is_told(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(write_run(tmp_path)), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_a_port_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["report", str(write_run(tmp_path)), "--follow", "--port", str(taken.getsockname()[1])]) == 2
    assert "expected a free port" in capsys.readouterr().err


def test_a_page_of_several_runs_replaces_none_of_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name)) for name in "ab"]
    assert main(["report", *runs]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'runs.html'}\n"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.json"]
    assert main(["report", runs[0], f"{runs[0]}/"]) == 2
    assert "found a run twice" in capsys.readouterr().err


def test_following_waits_for_a_run_to_begin(tmp_path: Path) -> None:
    place = tmp_path / "run"
    assert not has_begun(str(place))
    place.mkdir()
    (place / ".lock").touch()
    assert not has_begun(str(place)), "occupied, and nothing written"
    write_run(place)
    assert has_begun(str(place))
    (tmp_path / "other").mkdir()
    assert has_begun(str(tmp_path / "other")), "what is no run's is refused at once"
