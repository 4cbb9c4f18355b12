from __future__ import annotations

import pickle

from minicpmv.data.media.film_faults import FilmError


def test_a_fault_keeps_its_kind_and_second_between_processes() -> None:
    error = FilmError("damaged", where="a.mp4", found="damage at 2.1 s", expected="a film", fix="copy it", second=2.1)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  ours
    assert (copy.kind, copy.second, str(copy)) == ("damaged", 2.1, str(error))
    assert str(copy) == "a.mp4: found damage at 2.1 s, expected a film\n  fix: copy it"
