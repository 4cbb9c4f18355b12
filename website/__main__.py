"""Builds the site: ``python -m website [OUTPUT]``, or ``sh scripts/site.sh``, which installs Sphinx first.

Every warning is an error: a link or an anchor that leads nowhere, a page that no section lists, a docstring that cannot
be read.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main  # pyright: ignore[reportMissingImports] # in .site

from website.llms import llms_text
from website.reference import reference_pages
from website.staging import ROOT, stage


def main(arguments: list[str]) -> int:
    """Build into the folder that is named, by default ``build/site``; return Sphinx's exit code."""
    output = Path(arguments[0]) if arguments else ROOT / "build" / "site"
    pages = output.parent / f"{output.name}-pages"
    stage(pages, reference_pages())
    (output / "llms.txt").unlink(missing_ok=True)  # written last: it says that the site is whole
    code = build_main(
        ["-b", "html", "-E", "-a", "-W", "--keep-going", "-q", "-c", str(ROOT / "website"), str(pages), str(output)]
    )
    if code == 0:
        for page in sorted(pages.rglob("*.md")):
            if "files" not in page.parts:
                shutil.copyfile(page, output / page.relative_to(pages))
        (output / "llms.txt").write_text(llms_text(), encoding="utf-8")
        print(f"Site: {output / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
