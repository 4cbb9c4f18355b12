"""Metrics by name: this package's, and those that other packages offer."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from minicpmv.errors import ConfigError, UsageError
from minicpmv.evaluation.metrics.base import Sample
from minicpmv.evaluation.metrics.registry import (
    BUILT_IN,
    FAMILIES,
    describe_metrics,
    find_metrics,
    known_names,
    split_names,
)

_PLUGIN = """
from minicpmv.evaluation.metrics.base import MeanMetric

class Length(MeanMetric):
    name = "length"
    description = "characters of the answer"
    is_share = False

    def rate(self, sample):
        return len(sample.answer)

class Wrong:
    pass
"""


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package with these entry points."""

    def install(entries: str) -> None:
        (tmp_path / "our_metrics.py").write_text(_PLUGIN)
        info = tmp_path / "our_metrics-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-metrics\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[minicpmv.metrics]\n{entries}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("our_metrics", None)


def test_names_are_those_of_the_classes() -> None:
    made = find_metrics(list(BUILT_IN))
    assert [metric.name for metric in made] == list(BUILT_IN)
    described = [name for name, description in describe_metrics() if description]
    assert described == [*known_names(), *FAMILIES] == [*known_names(), "yes_no", "chair"]


def test_names_are_split_at_commas_and_each_is_taken_once() -> None:
    assert split_names(" anls, cer,,anls ") == ["anls", "cer"]
    assert split_names("chair:a.txt") == ["chair_i:a.txt", "chair_s:a.txt"]


def test_package_offers_a_metric(offer) -> None:
    offer("length = our_metrics:Length")
    assert known_names()[-1] == "length"
    (metric,) = find_metrics(["length"])
    assert metric.measure(Sample(answer="abc")) == (3, 1)
    assert ("length", "characters of the answer") in describe_metrics()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("length = our_metrics:Wrong", "expected a subclass of minicpmv.evaluation.metrics.base.Metric"),
        ("length = our_metrics:Missing", "found our_metrics:Missing, which cannot be imported"),
        ("long = our_metrics:Length", "whose name is 'long'"),
        ("anls = our_metrics:Length", "--metrics anls: found it in minicpmv and our_metrics:Length, expected one"),
    ],
)
def test_what_is_offered_wrongly_is_named(offer, entries: str, message: str) -> None:
    offer(entries)
    with pytest.raises(UsageError) as caught:
        find_metrics([entries.partition(" ")[0]])
    assert message in str(caught.value)


def test_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"--metrics: found 'rouge_k', .*\n  fix: did you mean rouge_l\?"):
        find_metrics(["rouge_k"])
    with pytest.raises(UsageError, match="found no name"):
        find_metrics([])


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ConfigError, match=r"fix: .* install 'minicpmv-finetune\[metrics\]'"):
        find_metrics(["bleu"])
