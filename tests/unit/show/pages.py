"""Reads a page back: what a test compares with the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from minicpmv.models.networks.loss import IGNORED

_VOID = {"br", "img", "meta", "link", "input", "hr"}
_EMPTY_IN_SVG = {"image", "line", "use"}
_LINKS = {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}


@dataclass
class ReadRecord:
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass
class ReadPage:
    records: list[ReadRecord] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Everything that a browser could fetch or follow."""
    tags: list[str] = field(default_factory=list)
    text: str = ""
    style: str = ""
    anchors: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = ReadPage()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _EMPTY_IN_SVG, tag
        self.page.tags.append(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.page.style += data
        elif not self.open or self.open[-1] != "script":
            self.page.text += data

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.page.links += [value for name, value in given.items() if name in _LINKS]
        if "id" in given:
            assert given["id"] not in self.page.anchors, f"two elements with the id {given['id']}"
            self.page.anchors.add(given["id"])
        if given.get("class") == "record":
            self.page.records.append(ReadRecord())
        if "data-id" in given:
            record, kind = self.page.records[-1], given["class"].split()[1]
            assert int(given["data-at"]) == len(record.ids)
            record.ids.append(int(given["data-id"]))
            record.kinds.append(kind)
            record.texts.append(given["data-text"])
            record.weights.append(float(given.get("data-weight", 1)))
            record.labels.append(int(given.get("data-label", given["data-id"])) if kind == "trained" else IGNORED)


def read_page(text: str) -> ReadPage:
    """Parse a page; every element must be closed and every id be there once."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader.page
