"""The built site works without a network, and its search finds English and Chinese.

``sh scripts/site.sh`` builds it, as ``sh test.sh`` does before the tests; every warning ends that.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.repository import DOCUMENTS, ROOT

SITE = ROOT / "build" / "site"


@pytest.fixture(scope="module")
def site() -> Path:
    """Return the built site; an older one than the pages would show what they no longer say."""
    built = SITE / "llms.txt"
    sources = [*DOCUMENTS, *(ROOT / "website").rglob("*.py")]
    if not built.is_file() or built.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        reason = "build/site is not built from today's pages: sh scripts/site.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SITE


def _pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Links to follow are fine; scripts, styles, fonts and images come with the site."""
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//|<link[^>]*\shref="(?:https?:)?//""")
    assert [path.name for path in _pages(site) if loads.search(path.read_text(encoding="utf-8"))] == []
    styles = [*site.rglob("*.css")]
    assert styles
    assert [
        path.name for path in styles if re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8"))
    ] == []


def test_every_page_of_llms_txt_is_there_as_markdown_and_html(site: Path) -> None:
    places = re.findall(r"\]\(([^)]+)\): ", (site / "llms.txt").read_text(encoding="utf-8"))
    assert len(places) > 30
    for place in places:
        assert (site / place).is_file(), place
        assert (site / place).with_suffix(".html").is_file(), place


@pytest.mark.parametrize(
    ("page", "language", "word"), [("start/start.html", "en", "On this page"), ("zh/start.html", "zh-CN", "当前页面")]
)
def test_what_stands_around_a_page_is_in_its_language(site: Path, page: str, language: str, word: str) -> None:
    text = (site / page).read_text(encoding="utf-8")
    assert f'<html lang="{language}"' in text
    assert ("On this page" in text, "当前页面" in text) == (word == "On this page", word == "当前页面")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("vision_cache", "guides/training.html"),
        ("D141", "reference/codes.html"),
        ("图片切片", "zh/zh.html"),  # inside a longer run of characters
    ],
)
def test_search_finds_pages_without_a_server(site: Path, browser: Any, query: str, page: str) -> None:
    tab = browser.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{site.as_uri()}/search.html?q={query}")
    tab.wait_for_selector("#search-results li a", timeout=60_000)
    found = tab.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    tab.close()
    assert any(page in link for link in found), found
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []


def test_no_page_is_wider_than_its_window(site: Path, browser: Any) -> None:
    tab = browser.new_page()
    wide: list[str] = []
    for page in _pages(site):
        tab.goto(page.as_uri(), wait_until="domcontentloaded")
        for width in (390, 768, 1280):
            tab.set_viewport_size({"width": width, "height": 900})
            if tab.evaluate("document.documentElement.scrollWidth") > width:
                wide.append(f"{page.relative_to(site)} at {width}")
    tab.close()
    assert wide == []
