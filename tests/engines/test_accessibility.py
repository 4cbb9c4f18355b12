"""axe-core finds nothing serious in the pages that people look at, on a phone, a tablet and a desk.

``sh scripts/accessibility.sh`` makes what this needs, builds the site, and runs these tests alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.cli.main import main
from minicpmv.report.writing import write_report
from tests.docs.repository import ROOT
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES, conversation, save_picture, write_data
from tests.unit.models.adapters.test_attaching import make_adapter
from tests.unit.report.runs import answer_line, sample, write_lines, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

WIDTHS = (390, 768, 1280)
SITE = ROOT / "build" / "site"
_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .filter((rule) => ["serious", "critical"].includes(rule.impact))
    .flatMap((rule) => rule.nodes.map((node) => `${rule.impact} ${rule.id}: ${node.target.join(" ")}`))"""

Check = Callable[..., list[str]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert _CHROMIUM is not None, "found no Chromium; fix: apt-get install chromium"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def rules() -> str:
    """Return the source of axe-core."""
    found = sorted((ROOT / ".engines" / "axe").glob("lib*/python*/site-packages/axe_playwright_python/axe.min.js"))
    assert found, "found no axe.min.js in .engines/axe; fix: sh scripts/engines.sh axe"
    return found[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def check(rules: str) -> Check:
    """Return a function that names what is serious or critical in an open page, at each width, light and dark."""

    def run(page: Any, widths: tuple[int, ...] = WIDTHS, schemes: tuple[str, ...] = ("light", "dark")) -> list[str]:
        if not page.evaluate("'axe' in window"):
            page.evaluate(rules)
        faults: list[str] = []
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for width in widths:
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(
                    600
                )  # milliseconds; 300 after a resize the theme finds what can be scrolled by key
                faults += [f"{width} {scheme}: {fault}" for fault in page.evaluate(_RUN)]
        return faults

    return run


def _open(browser: Any, address: str) -> Any:
    page = browser.new_page()
    page.goto(address)
    return page


def test_what_is_wrong_in_a_page_is_found(browser: Any, check: Check, tmp_path: Path) -> None:
    """At the width at which it is: so an empty list elsewhere means that the rules have run."""
    style = "body { color: #000; background: #fff } @media (max-width: 400px) { p { color: #ccc } }"
    head = f'<meta name="viewport" content="width=device-width"><title>A page</title><style>{style}</style>'
    file = tmp_path / "page.html"
    body = '<main><h1>A</h1><p>Faint</p><img src="a"></main>'
    file.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>')
    assert check(_open(browser, file.as_uri()), schemes=("light",)) == [
        "390 light: serious color-contrast: p",
        *(f"{width} light: critical image-alt: img" for width in WIDTHS),
    ]


def _write_report(folder: Path) -> Path:
    """Write the page of a run that has every section: curves, samples, answers before and after."""
    save_picture(folder / "a.png", 300, 200)
    samples = [sample(step, answer) for step, answer in ((0, "no"), (2, "yes"))]
    run = write_run(folder / "run", working_directory=str(folder), samples=samples)
    for name, right in (("before", 5), ("after", 15)):
        lines = [
            answer_line(f"r{number}", "yes" if number < right else "no", "yes", index=number, images=["a.png"])
            for number in range(20)
        ]
        write_lines(run / f"{name}.jsonl", lines)
    return write_report([str(run)], num_examples=20).page


def test_the_page_of_a_run(browser: Any, check: Check, tmp_path: Path) -> None:
    page = _open(browser, _write_report(tmp_path).as_uri())
    playwright.expect(page.locator(".plot svg").first).to_be_visible()
    assert check(page) == []
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.locator(".card:visible .enlarge").first.click()
    playwright.expect(page.locator("dialog")).to_be_visible()
    assert check(page) == [], "a picture is enlarged"
    page.keyboard.press("Escape")
    assert check(page) == [], "everything is unfolded"


def test_the_page_of_what_a_model_is_trained_on(browser: Any, check: Check, tmp_path: Path) -> None:
    save_picture(tmp_path / "wide.png", 150, 80)
    records = [
        {"image": "wide.png", "conversations": conversation("<image>\nWhat is it?", "Noise.", "So?", "Yes.")},
        {"conversations": conversation("你好", "<script>alert(1)</script>")},
    ]
    data, output = write_data(tmp_path / "train.json", records), tmp_path / "page.html"
    assert main(["show", data, "--model", str(FIXTURES / "v2_6"), "--output", str(output)]) == 0
    page = _open(browser, output.as_uri())
    assert check(page) == []
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert check(page) == [], "everything is unfolded"


def test_the_page_of_ui(browser: Any, check: Check, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_picture(tmp_path / "a.png", 150, 80)
    asked = {"image": "a.png", "conversations": conversation("<image>\nWhat is it?", "Noise.")}
    (tmp_path / "data.json").write_text(json.dumps([asked]), encoding="utf-8")
    adapter, log = make_adapter(tmp_path / "adapter", "v2_6"), tmp_path / "log"
    flags = ["--compare", "--port", "0", "--max-new-tokens", "8", "--data", str(tmp_path / "data.json")]
    command = [prepared_python(), "-m", "minicpmv", "ui", adapter, *flags]
    with log.open("w") as written, started(command, stdout=written, stderr=written) as process:
        page = _open(browser, wait_for(r"^Open (http://127.0.0.1:\d+) in a browser", log, process)[1])
        page.wait_for_selector('#talk[role="region"]')
        assert check(page) == []
        page.fill("#record-number input", "0")
        page.press("#record-number input", "Enter")
        playwright.expect(page.locator("#box .thumbnail-item")).to_have_count(1)
        page.press("#box textarea", "Enter")
        playwright.expect(page.locator(".expectation")).to_have_count(2, timeout=60_000)
        assert check(page) == [], "a record is answered"
        page.close()


def _pages_of_the_site() -> list[Path]:
    return [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts]


def test_every_page_of_the_site(browser: Any, check: Check) -> None:
    """Its colours and parts are those of one template: each page in light, the first one in dark as well."""
    assert (SITE / "index.html").is_file(), f"found no {SITE}; fix: sh scripts/site.sh"
    page, faults = _open(browser, (SITE / "index.html").as_uri()), []
    for path in _pages_of_the_site():
        page.goto(path.as_uri())
        schemes = ("light", "dark") if path.parent == SITE else ("light",)
        faults += [f"{path.relative_to(SITE)} {fault}" for fault in check(page, schemes=schemes)]
    assert "\n".join(faults) == ""  # all of them
