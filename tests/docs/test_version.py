"""One version: in the package, the changelog and the citation; and a README that a package index can show."""

from __future__ import annotations

import datetime
import re
import sys

from minicpmv import __version__
from tests.docs.repository import ROOT, without_code

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # with Python 3.10 it is installed


def _released() -> list[tuple[str, datetime.date]]:
    headings = re.findall(r"(?m)^## \[(\d+\.\d+\.\d+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    return [(version, datetime.date.fromisoformat(date)) for version, date in headings]


def test_the_newest_heading_of_the_changelog_is_this_version() -> None:
    released = _released()
    assert released[0][0] == __version__
    assert [date for _, date in released] == sorted((date for _, date in released), reverse=True)
    headings = re.findall(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0] == "[Unreleased]"
    assert len(headings) == 1 + len(released), "each other one has a version and a date"


def test_the_citation_names_this_version_and_its_date() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"(?m)^([\w-]+): (.*)$", text))
    version, date = _released()[0]
    assert (fields["version"], fields["date-released"]) == (version, date.isoformat())
    assert fields["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(re.findall(r"(?m)^([\w-]+):", text))


def test_links_of_the_readme_are_absolute_as_soon_as_there_is_an_address() -> None:
    """An index shows the page without the files around it. Without an address nothing can be linked to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if "urls" not in project:
        return
    text = without_code((ROOT / "README.md").read_text(encoding="utf-8"))
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
