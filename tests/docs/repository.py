"""The repository's text files, as the tests in this folder read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TRAINING_SCRIPTS = [ROOT / name for name in ("finetune_lora.sh", "finetune_ds.sh", "finetune_dpo.sh")]
SCRIPTS = [*TRAINING_SCRIPTS, ROOT / "test.sh", *sorted(ROOT.glob("scripts/*.sh"))]
# Also where git is absent and .venv or output/ lie about: only where documents are.
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "src/minicpmv/data/checks/assets/codes.md",
    ROOT / "tests/fixtures/README.md",
]

_CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_blocks(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return [body for name, body in _CODE_BLOCK.findall(document.read_text(encoding="utf-8")) if name == language]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _CODE_BLOCK.sub("", text))


def tracked_text_files() -> list[Path]:
    """Return what git tracks, or all files of the source folders where there is no git, without binary files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = (ROOT / name for name in ("src", "tests", "docs", "scripts"))
        paths = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.glob("*.*"))
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]
