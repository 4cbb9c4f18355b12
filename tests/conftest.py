"""What holds for every test, however pytest was started. Set before anything imports torch."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping

# The models here are tiny: a second thread only waits for the first, and makes steps up to 90 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that would download something fails instead.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from tests.gpus import asks_for_gpus, hide_gpus
from tests.precision import PRECISIONS, choose_precision

_LONG = 60
"""Seconds of tests from which a run says where they went."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that trains in another precision."""
    parser.addoption(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="what the training runs of tests/run compute in, unless they state it themselves (default: fp32)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Settle precision and GPUs for this process and those that it starts, before any test is imported."""
    choose_precision(config.option.precision)
    if not asks_for_gpus(config.option.markexpr):
        hide_gpus()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none, or none was asked for."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # waits for the configuration above

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and pytest -m gpu, without which tests see none"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what all tests share out of the garbage collections of each: every training ends with a whole one.

    Modules and tests are a million objects, and nothing that collecting makes is garbage of any size.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None, item: pytest.Item) -> Iterator[None]:
    """Do so again after each file, whose tests may have been the first to import something large."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files and folders in which a long run has spent its time; CONTRIBUTING.md has what each may take."""
    spent: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                spent[report.nodeid.partition("::")[0]] += report.duration
    if sum(spent.values()) < _LONG:
        return
    folders: defaultdict[str, float] = defaultdict(float)
    for file, seconds in spent.items():
        folders["/".join(file.split("/")[:2])] += seconds
    terminalreporter.section("seconds of tests, by folder and by the ten slowest files")
    for name, seconds in [*_most(folders), *_most(spent)[:10]]:
        terminalreporter.line(f"{seconds:7.0f}  {name}")


def _most(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda each: -each[1])
