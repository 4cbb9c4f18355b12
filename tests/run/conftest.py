"""What tests of commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.run.prepared import own_interpreter_prepared


@pytest.fixture
def prepared_interpreter() -> Iterator[None]:
    """Let what a run in this process starts with its own interpreter, such as the proof, begin at once."""
    with own_interpreter_prepared():
        yield
