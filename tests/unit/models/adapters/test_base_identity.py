"""An adapter states its base, and every other base that it was trained on before."""

from __future__ import annotations

from pathlib import Path

from minicpmv.models.adapters.base_identity import BaseIdentity, follow_base, read_base, write_base


def identity(name: str) -> BaseIdentity:
    return BaseIdentity(f"/models/{name}", "openbmb/MiniCPM-V-2_6", name * 64, "s" * 64, "f" * 64)


def test_bases_that_an_adapter_went_through_are_stated_oldest_first(tmp_path: Path) -> None:
    for number, name in enumerate("abbca"):
        base = identity(name) if not number else follow_base(identity(name), tmp_path)
        write_base(tmp_path, base)
        assert read_base(tmp_path) == base
    stated = read_base(tmp_path)
    assert stated is not None
    assert stated.weights == "a" * 64
    assert stated.before == (identity("a"), identity("b"), identity("c"))


def test_first_base_has_none_before(tmp_path: Path) -> None:
    write_base(tmp_path, identity("a"))
    assert "before" not in (tmp_path / "base_model.json").read_text(encoding="utf-8")
    assert follow_base(identity("a"), tmp_path) == identity("a")
    (tmp_path / "base_model.json").unlink()
    assert follow_base(identity("b"), tmp_path) == identity("b")
