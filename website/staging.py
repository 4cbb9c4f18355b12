"""Lays the pages out as Sphinx reads them: one folder for each section, with links that lead to where pages now are.

The repository's files are not changed. A link to a file that is no page leads to a copy of that file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath

from website.navigation import HOME, SECTIONS, Page, Section

__all__ = ["ROOT", "page_addresses", "stage"]

ROOT = Path(__file__).resolve().parents[1]

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def page_addresses() -> dict[str, str]:
    """Return where each page of the repository is on the site, both as paths of Markdown files."""
    addresses = {HOME: "index.md"}
    for section in SECTIONS:
        for page in section.pages:
            if not page.is_generated:
                addresses[page.source] = f"{section.folder}/{_name(page.source)}"
    return addresses


def _name(source: str) -> str:
    """Return a page's file name on the site; a README takes the name of its folder.

    >>> _name("docs/data.md"), _name("docs/deploy/README.md"), _name("CHANGELOG.md")
    ('data.md', 'deploy.md', 'changelog.md')
    """
    path = PurePosixPath(source)
    return f"{path.parent.name}.md" if path.name == "README.md" else path.name.lower()


def stage(folder: Path, generated: Mapping[str, str]) -> None:
    """Write all pages to a folder, which is emptied first.

    Args:
        folder: Where Sphinx will read.
        generated: The text of each generated page, by its name.

    Raises:
        ValueError: A page links to what is not in the repository.
    """
    shutil.rmtree(folder, ignore_errors=True)
    addresses = page_addresses()
    for source, address in addresses.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source == HOME:
            text = f"{text}\n{_contents(f'{section.folder}/index' for section in SECTIONS)}"
        _write(folder / address, _with_links(text, source, address, addresses, folder))
    for section in SECTIONS:
        _write(folder / section.folder / "index.md", _section_page(section, addresses))
        for page in section.pages:
            if page.is_generated:
                _write(folder / section.folder / page.source, generated[page.source])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _section_page(section: Section, addresses: Mapping[str, str]) -> str:
    parts = [f"# {section.title}", section.about]
    for group, members in groupby(section.pages, key=lambda page: page.group):
        pages = [(page, _place(page, section, addresses)) for page in members]
        parts += [f"## {group}"] if group else []
        parts += [f"[{page.label}]({PurePosixPath(place).name})\n: {page.about}" for page, place in pages]
        entries = [PurePosixPath(place).stem for _, place in pages]
        labels = [
            f"{page.label} <{entry}>" if page.label else entry for (page, _), entry in zip(pages, entries, strict=True)
        ]
        parts.append(_contents(labels, caption=group))
    return "\n\n".join(parts)


def _place(page: Page, section: Section, addresses: Mapping[str, str]) -> str:
    return f"{section.folder}/{page.source}" if page.is_generated else addresses[page.source]


def _contents(entries: Iterable[str], *, caption: str = "") -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```", ""])


def _with_links(text: str, source: str, address: str, addresses: Mapping[str, str], folder: Path) -> str:
    """Return a page whose relative links lead to where their targets are on the site."""

    def lead(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[2].partition("#")
        if not target or ":" in target:
            return match[0]
        path = os.path.normpath(PurePosixPath(source).parent / target)
        if path not in addresses:
            _copy(path, source, folder)
        there = addresses.get(path, f"files/{path}")
        return f"{match[1]}{os.path.relpath(there, PurePosixPath(address).parent)}{hash_sign}{anchor}{match[3]}"

    parts = _CODE.split(text)  # code at odd places
    return "".join(part if place % 2 else _LINK.sub(lead, part) for place, part in enumerate(parts))


def _copy(path: str, source: str, folder: Path) -> None:
    """Put a file that is no page where a page's link finds it."""
    if not (ROOT / path).is_file():
        raise ValueError(
            f"{source}: found a link to {path!r}, expected a file of the repository\n  fix: correct the link"
        )
    copied = folder / "files" / path
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / path, copied)
