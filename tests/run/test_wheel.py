"""The distributions: complete, and usable by somebody who has nothing but the wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from minicpmv import __version__
from tests.docs.repository import ROOT, TRAINING_SCRIPTS
from tests.run.test_notebooks import read_shortened

_NAME = f"minicpmv_finetune-{__version__}"
_SHARED = [ROOT / "scripts" / name for name in ("environment.sh", "finetune.sh")]
_PIP = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check"]


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, whose commands are started in an empty folder."""

    environment: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def run(self, *words: str | Path) -> str:
        """Run a command of the environment as a user who has activated it; return what it prints."""
        mine = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "PYTHONPATH")}
        path = f"{self.environment / 'bin'}{os.pathsep}{mine['PATH']}"
        done = subprocess.run(
            words, cwd=self.folder, env=mine | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _build(kind: str, source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    code = f"import sys, hatchling.build as backend; backend.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _build("wheel", ROOT, folder)
    return folder / f"{_NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    _build("sdist", ROOT, folder)
    with tarfile.open(folder / f"{_NAME}.tar.gz") as archive:
        archive.extractall(folder)
    return folder / _NAME


def _make_environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel alone; everything that it needs is found in the environment of the tests."""
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    subprocess.run([*_PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(purelib) / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return environment


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    (folder / "work").mkdir()
    return Installed(_make_environment(folder, wheel), folder / "work")


def _files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def _content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_the_scripts_of_the_root(wheel: Path) -> None:
    package = {f"minicpmv/{name}": content for name, content in _files(ROOT / "src/minicpmv").items()}
    scripts = {f"minicpmv/scripts/{path.relative_to(ROOT)}": path.read_bytes() for path in TRAINING_SCRIPTS + _SHARED}
    held = {name: content for name, content in _content(wheel).items() if ".dist-info/" not in name}
    assert held == package | scripts


def test_the_source_distribution_holds_tests_documents_and_scripts(unpacked: Path) -> None:
    for folder in ("src", "tests", "docs", "scripts", "requirements", "benchmarks", "notebooks", "docker"):
        assert _files(unpacked / folder).keys() == _files(ROOT / folder).keys(), folder
    names = "CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE NOTICE constraints.txt test.sh .ci/run"
    for name in names.split():
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_a_wheel_from_the_source_distribution_is_the_same(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    _build("wheel", unpacked, tmp_path)
    assert _content(tmp_path / wheel.name) == _content(wheel)


@pytest.mark.long
def test_packages_that_fit_are_left_alone(installed: Installed, wheel: Path) -> None:
    """Bounds, no pins: pip would change nothing beside a transformers, or a torch, that is within them."""
    words = [*_PIP, "--python", str(installed.python), "install", "--dry-run", "--no-index", str(wheel)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "Would install" not in told
    for name in ("transformers", "torch", "numpy"):
        assert f"Requirement already satisfied: {name}" in told


@pytest.mark.long
def test_the_wheel_alone_checks_and_trains_the_demo(installed: Installed) -> None:
    assert installed.run("minicpmv", "--version") == f"minicpmv-finetune {__version__}\n"
    installed.run("minicpmv", "demo")
    assert "\nNo problem in 3,591 records" in installed.run("minicpmv", "check", "output/demo/train.json")
    given = "--model output/demo/model --data output/demo/train.json --output output/run --report_to none"
    small = "--use_lora true --max_steps 2 --verify_saved false --data_cache false"
    told = installed.run("minicpmv", "train", *given.split(), *small.split())
    assert (installed.folder / "output/run/adapter_model.safetensors").is_file(), told


def test_the_scripts_of_the_wheel_run_with_the_environment_that_is_active(installed: Installed) -> None:
    told = installed.run("minicpmv", "scripts")
    assert told.splitlines() == [f"sh {path.name}" for path in sorted(TRAINING_SCRIPTS)]
    ask = "ROOT=. && . scripts/environment.sh && echo $PYTHON $MINICPMV && python -c 'import minicpmv; print(minicpmv)'"
    python, module = installed.run("sh", "-euc", ask).splitlines()
    assert python == "python3 minicpmv"
    assert str(installed.environment) in module
    assert "sh finetune_lora.sh" in installed.run("sh", "finetune_lora.sh", "--help")


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel and a kernel for notebooks, all installed anew from the index that pip is configured with."""
    folder = tmp_path_factory.mktemp("fresh")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [environment / "bin/python", "-m", "pip", "install", "--quiet"]
    if subprocess.run([*install, "--dry-run", "wrapt"], capture_output=True, check=False).returncode:
        pytest.skip("needs a package index")
    subprocess.run([*install, "-c", ROOT / "constraints.txt", wheel, "ipykernel"], check=True)
    (folder / "work").mkdir()
    return Installed(environment, folder / "work")


@pytest.mark.slow
def test_a_fresh_environment_with_the_wheel_runs_the_script(fresh: Installed) -> None:
    fresh.run("minicpmv", "scripts")
    told = fresh.run("sh", "finetune_lora.sh", "--max_steps", "2")
    assert "Saved:  output/lora" in told


@pytest.mark.slow
def test_a_fresh_environment_with_the_wheel_runs_the_first_notebook(
    fresh: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, with few steps, in a kernel of that environment, where nothing of this checkout is seen."""
    kernel = tmp_path / "jupyter" / "kernels" / "fresh"
    kernel.mkdir(parents=True)
    command = [str(fresh.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "fresh", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # what jupyter_core would otherwise warn about
    monkeypatch.delenv("PYTHONPATH", raising=False)
    content = read_shortened(ROOT / "notebooks" / "1_first_run.ipynb")
    content.cells.append(nbformat.v4.new_code_cell("minicpmv.__file__"))
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(content, timeout=600, kernel_name="fresh", resources={"metadata": {"path": str(work)}}).execute()
    assert str(fresh.environment) in content.cells[-1].outputs[0].data["text/plain"]
    assert (work / "output" / "lora" / "report.html").is_file()
