"""The variable-length kernel: which cards get it, how each torch wants it called, and the trial before it is used."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention import kernel as attention_kernel
from minicpmv.models.attention import varlen as attention
from minicpmv.models.attention.kernel import (
    aligns_at_the_end,
    attend_by_kernel,
    find_fault_of_kernel,
    has_kernel,
)
from minicpmv.models.attention.varlen import attend

_CUDA = torch.device("cuda:0")

# Parameters of torch.nn.attention.varlen.varlen_attn in the released wheels.
_OF_2_11 = "query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)"
_OF_2_12 = f"{_OF_2_11}, enable_gqa=False, seqused_k=None, block_table=None, num_splits=None"
SIGNATURES = {"2.11": _OF_2_11, "2.12": _OF_2_12, "2.13": _OF_2_12}


def function_of(release: str) -> Callable[..., Any]:
    """A function with that release's parameters which hands them to the operator that torch has here."""
    names = list(inspect.signature(eval(f"lambda {SIGNATURES[release]}: None")).parameters)
    handed_on = ", ".join(f"{name}={name}" for name in names[7:])
    made: dict[str, Any] = {"operator": _as_the_operator}
    exec(f"def function({SIGNATURES[release]}):\n    return operator({', '.join(names[:7])}, {handed_on})", made)
    return made["function"]


def _as_the_operator(*tensors: Any, **options: Any) -> Any:
    # torch 2.11 asks nothing about heads; what its C++ does with fewer of them, this torch does when it is told.
    options.setdefault("enable_gqa", True)
    return varlen_attn(*tensors, **options)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let the first CUDA device be a card of a capability."""

    def put(major: int, minor: int, name: str = "a card") -> None:
        found = SimpleNamespace(name=name, major=major, minor=minor, total_memory=2**34)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
        attention_kernel._is_served.cache_clear()

    yield put
    attention_kernel._is_served.cache_clear()


def _fake(heads: int, *, channels: int = 72, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(10, heads, channels, dtype=dtype, device=_CUDA)


def test_stored_signature_is_the_installed_one() -> None:
    release = ".".join(torch.__version__.split(".")[:2])
    if release not in SIGNATURES:
        pytest.skip(f"the signature of torch {release} is not stored; the call below is tested with it all the same")
    stored = inspect.signature(function_of(release)).parameters
    assert {name: p.kind for name, p in stored.items()} == {
        name: p.kind for name, p in inspect.signature(varlen_attn).parameters.items()
    }


@pytest.mark.parametrize("heads", [(16, 16), (28, 4)], ids=["tower", "language model"])
@pytest.mark.parametrize("release", [*SIGNATURES, "installed"])
def test_function_of_each_torch_is_called_as_it_wants(
    monkeypatch: pytest.MonkeyPatch, release: str, heads: tuple[int, int]
) -> None:
    if release != "installed":
        monkeypatch.setattr(attention_kernel, "varlen_attn", function_of(release))
    with FakeTensorMode():
        query, key = _fake(heads[0]), _fake(heads[1])
        places = torch.empty(3, dtype=torch.int32, device=_CUDA)
        attended = attend_by_kernel(query, key, key, places, places, (6, 6), is_causal=True, scale=0.1)
    assert (attended.shape, attended.dtype, attended.device) == (query.shape, query.dtype, _CUDA)


@pytest.mark.parametrize(
    ("capability", "has_it"),
    [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), True), ((12, 0), True)],
)
def test_cards_before_ampere_have_no_kernel(
    card: Callable[..., None], capability: tuple[int, int], has_it: bool
) -> None:
    """There torch ends with "FlashAttention only supports Ampere GPUs or newer", in float16 as well."""
    card(*capability)
    with FakeTensorMode():
        assert has_kernel(_fake(16)) == has_it
        assert has_kernel(_fake(16, dtype=torch.float16)) == has_it
        assert not has_kernel(_fake(16, dtype=torch.float32))
        assert not has_kernel(_fake(16, channels=72 + 4)), "C++ takes multiples of 8"
        assert not has_kernel(_fake(16, channels=264))


@pytest.mark.parametrize("lengths", [[4, 6], [5, 5]])
def test_without_it_no_fused_kernel_is_asked_to_share_heads(
    card: Callable[..., None], monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    """Memory-efficient attention cannot, and torch would fall back to holding all weights."""
    card(7, 5)
    asked: list[tuple[int, int, bool]] = []

    def watch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
        asked.append((query.shape[1], key.shape[1], options["enable_gqa"]))
        return scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watch)
    with FakeTensorMode():
        query, key = _fake(28, dtype=torch.float16), _fake(4, dtype=torch.float16)
        attended = attend(query, key, key, query_lengths=lengths, key_lengths=lengths, is_causal=True)
    assert attended.shape == query.shape
    assert set(asked) == {(28, 28, False)}


# ---------------------------------------------------------------------------------------------------- the trial on ROCm


def _right(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: Any, _: Any, *__: int, **options: Any):
    parts = zip(*(each.tensor_split(starts[1:-1].long()) for each in (query, key, value)), strict=True)
    is_causal = options["window_size"] == (-1, 0)
    return torch.cat(
        [
            scaled_dot_product_attention(*(each.transpose(0, 1) for each in part), is_causal=is_causal, enable_gqa=True)
            .transpose(0, 1)
            .contiguous()
            for part in parts
        ]
    )


def _without_window(*tensors: Any, **options: Any) -> torch.Tensor:
    return _right(*tensors, **options | {"window_size": (-1, -1)})


def _refusing(*tensors: Any, **options: Any) -> torch.Tensor:
    raise RuntimeError("window_size is not supported\nat line 3")


def _without_gradient(*tensors: Any, **options: Any) -> torch.Tensor:
    attended = _right(*tensors, **options)
    return attended.detach() + 0 * tensors[0] * tensors[1].sum() * tensors[2].sum()


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (_right, None),
        (_without_window, "computes something else"),
        (_without_gradient, "computes something else"),
        (_refusing, "refuses (window_size is not supported)"),
    ],
)
def test_trial_finds_a_kernel_that_is_not_right(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Any], fault: str | None
) -> None:
    monkeypatch.setattr(attention_kernel, "varlen_attn", kernel)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert find_fault_of_kernel(torch.device("cpu")) == fault


def _unequal(align: Callable[[int, int], int]) -> Callable[..., torch.Tensor]:
    """A kernel that takes more keys than queries, and places the queries among the keys as said."""

    def kernel(query: Any, key: Any, value: Any, starts: Any, ends: Any, *_: int, **options: Any) -> torch.Tensor:
        parts = [
            query.tensor_split(starts[1:-1].long()),
            *(each.tensor_split(ends[1:-1].long()) for each in (key, value)),
        ]
        found = []
        for part in zip(*parts, strict=True):
            own, seen, given = (each.transpose(0, 1) for each in part)
            mask = torch.ones(own.shape[1], seen.shape[1], dtype=torch.bool)
            mask = mask.tril(align(*mask.shape)) if options["window_size"] == (-1, 0) else mask
            found.append(scaled_dot_product_attention(own, seen, given, mask, enable_gqa=True).transpose(0, 1))
        return torch.cat(found)

    return kernel


@pytest.mark.parametrize(
    ("align", "is_right"), [(lambda own, seen: seen - own, True), (lambda own, seen: 0, False)], ids=["end", "start"]
)
def test_a_kernel_that_aligns_at_the_start_attends_no_branches(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    align: Callable[[int, int], int],
    is_right: bool,
) -> None:
    monkeypatch.setattr(attention_kernel, "varlen_attn", _unequal(align))
    monkeypatch.setattr(attention_kernel, "look_at", lambda device: SimpleNamespace(name="a card"))
    aligns_at_the_end.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert aligns_at_the_end(torch.device("cpu")) == is_right
    aligns_at_the_end.cache_clear()
    assert ("where two answers see one prompt" in caplog.text) != is_right


@pytest.mark.parametrize("fault", [None, "refuses (nothing)"])
def test_on_rocm_the_trial_decides_once(
    card: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str | None
) -> None:
    card(9, 4, "AMD Instinct MI300X")
    tried: list[torch.device] = []

    def find(device: torch.device) -> str | None:
        tried.append(device)
        return fault

    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(attention_kernel, "find_fault_of_kernel", find)
    with FakeTensorMode(), caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert has_kernel(_fake(16)) == (fault is None)
    assert tried == [_CUDA]
    said = "notice: attention on AMD Instinct MI300X: the variable-length kernel refuses (nothing), so"
    assert [said in entry.message for entry in caplog.records] == ([True] if fault else [])
