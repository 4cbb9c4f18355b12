"""torch.compile of the language model, alone or with all around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.invariants.samples import packed, padded, samples_of
from tests.parity.cases import FIXTURES, VERSIONS

# Traces as the default backend does, but needs no C++ compiler. Measured with the default one, inductor: logits within
# 5e-6 and gradients within 2e-6 of their norm for every version, 50 s each.
BACKEND = "aot_eager"


def results(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "labels"}).logits, gradient


# torch 2.13's tracer asks every input for its gradient; may go when it asks leaves only.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    ("version", "rows", "whole"),
    [
        # tests/run/test_compilation.py trains packed rows through compiled layers by default.
        *(pytest.param(version, "packed", False, marks=pytest.mark.slow) for version in VERSIONS),
        pytest.param("v2_6", "padded", False, marks=pytest.mark.slow),
        pytest.param("v2_6", "padded", True, marks=pytest.mark.slow),
    ],
)
def test_compiled_equals_eager(version: str, rows: str, whole: bool) -> None:
    torch.compiler.reset()
    model: Any = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version, dtype=torch.float32)
    samples = samples_of(version)[:3]
    batch = packed(samples) if rows == "packed" else padded(samples, "right")
    logits, gradient = results(model, batch)
    compiled = model if whole else model.llm.model
    calls = torch._dynamo.utils.counters["frames"]["ok"]
    compiled.compile(backend=BACKEND)
    found_logits, found_gradient = results(model, batch)
    assert torch._dynamo.utils.counters["frames"]["ok"] > calls, "nothing was compiled"
    torch.testing.assert_close(found_logits, logits, atol=1e-5, rtol=0)
    assert (found_gradient - gradient).norm() < 1e-5 * gradient.norm()
