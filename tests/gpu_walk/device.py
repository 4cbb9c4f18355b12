"""Stands for a GPU: it computes shapes only, and writes down what crosses between it and the host.

Everything that a model does goes through torch's dispatcher, and there through here, whoever calls it and from whatever
line. FakeTensorMode below finds the shapes, and refuses tensors of two devices in one operation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.gpu_walk.report import Crossing
from tests.gpu_walk.sites import module_at_work, outermost_tolist, site_of_operation
from tests.gpu_walk.values import Values, tensors_in

__all__ = ["WatchedDevice", "mark_pixels"]

_aten = torch.ops.aten

_SHAPED_BY_VALUES = (
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.unique_dim.default,
    _aten.repeat_interleave.Tensor,
    _aten.bincount.default,
)
"""The shape of what they return is not known before the device has answered, so on a GPU the host waits for it."""
_INDEXED = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)
"""Likewise, where an index is a mask."""
_MASKED_INSIDE = (_aten.masked_scatter_backward.default,)
"""Gradients that select by the mask, their second argument, before they fill the shape up again."""
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_KERNEL = "torch_attn::_varlen_attn"
_SDPA = ("aten::_safe_softmax", "aten::_scaled_dot_product")
"""torch's sdpa. A build without CUDA has none of its kernels and computes by products, each time with this softmax."""
_STAGED_BYTES = 64 * 1024
"""CUDA copies up to this much of ordinary memory to the device without a wait, if it is asked to; of pinned memory any
amount. Source: CUDA C++ Programming Guide, "Concurrent Execution between Host and Device"."""
_PIXELS, _PINNED = "holds_pixels", "is_in_pinned_memory"


def mark_pixels(tensor: Tensor) -> None:
    """Let crossings of this tensor, and of its copies, be known as those of pixels."""
    setattr(tensor, _PIXELS, True)


class _Fakes(FakeTensorMode):
    """Makes no tensor on the device itself, although torch says that there is one."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class WatchedDevice(TorchDispatchMode):
    """While it is entered, ``cuda:0`` exists, tensors are without data, and crossings are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "start"
        self.kernels: dict[str, Counter[str]] = defaultdict(Counter)
        """Calls of the variable-length kernel: phase -> module -> how often."""
        self.sdpa: dict[str, Counter[str]] = defaultdict(Counter)
        """Calls of torch's other attention, likewise."""
        self._values = Values()
        self._fakes = _Fakes()
        self._crossings: Counter[Crossing] = Counter()
        self._modules: dict[int, str] = {}
        self._conversion: FrameType | None = None

    def __enter__(self) -> Any:
        self._fakes.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._fakes.__exit__(*raised)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Write a phase's name beside all that happens within."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def watch(self, model: nn.Module) -> None:
        """Begin a new list of crossings and calls, of this model's modules."""
        names = {id(module): _plain_name(name) for name, module in model.named_modules()}
        self._modules = {each: name for each, name in names.items() if ".original_module" not in name}
        for each in (self._crossings, self.kernels, self.sdpa):
            each.clear()
        self._conversion = None

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """What has crossed since then: each line once, in the order in which they were first reached."""
        return tuple(replace(crossing, times=times) for crossing, times in self._crossings.items())

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of the model's modules that attend."""
        return tuple(name for name in self._modules.values() if name.endswith(("self_attn", "resampler.attn")))

    # -------------------------------------------------------------------------------------------------- one operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # asks for a device; nothing is computed
            return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map_only(Tensor, self._without_data, (tuple(args), dict(kwargs or {})))
        self._note_attention(func)
        if func is _aten.is_pinned.default:
            return _has(args[0], _PINNED)
        if func is _aten._local_scalar_dense.default:
            return self._answer(args[0])
        if func is _aten.equal.default:
            return self._answer_whether_equal(args[0], args[1])
        if func in _SHAPED_BY_VALUES and kwargs.get("output_size") is None:
            return self._shape_by_values(func, args, kwargs)
        if func in _INDEXED:
            args = (args[0], self._only_places(args[1], args[0].device), *args[2:])
        if func in _MASKED_INSIDE:
            self._note_wait(func.overloadpacket.__name__, args[1])
        if func in _COPIES:
            self._note_copy(func, args, kwargs)
        if func is _aten._pin_memory.default:
            pinned = self._compute(_aten.clone.default, args[:1], {})
            setattr(pinned, _PINNED, True)
            return _keep_mark(args[0], pinned)
        outcome = self._compute(func, args, kwargs)
        return _keep_mark(args[0], outcome) if func is _aten._to_copy.default else outcome

    def _compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        outcome = func(*args, **kwargs)
        self._values.follow(func, args, kwargs, outcome)
        return outcome

    def _without_data(self, tensor: Tensor) -> Tensor:
        """Return a fake tensor for a real one, such as one that was made before or that Python's numbers became."""
        if isinstance(tensor, FakeTensor):
            return tensor
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        self._values.keep(fake, tensor)
        return _keep_mark(tensor, fake)

    # ------------------------------------------------------------------------------------- what depends on the values

    def _answer(self, fake: Tensor) -> Any:
        """Return the number in a tensor of one. Where nobody knows it, it is 0 or False."""
        conversion = outermost_tolist()
        if conversion is None or conversion is not self._conversion:  # a list is one copy, and here many questions
            self._note_wait("item" if conversion is None else "tolist", fake)
        self._conversion = conversion
        value = self._values.of(fake)
        if value is None:
            return False if fake.dtype == torch.bool else 0.0 if fake.dtype.is_floating_point else 0
        return self._values.compute(_aten._local_scalar_dense.default, [fake], {})

    def _answer_whether_equal(self, left: Tensor, right: Tensor) -> bool:
        self._note_wait("equal", left)
        if self._values.of(left) is None or self._values.of(right) is None:
            return True
        return self._values.compute(_aten.equal.default, [left, right], {})

    def _shape_by_values(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        if func is _aten.masked_select.default:  # of what has no value, by a mask that has one
            chosen, mask = torch.broadcast_tensors(args[0], args[1])
            return self._compute(_aten.index.Tensor, [chosen, self._only_places([mask], chosen.device, name)], {})
        self._note_wait(name, args[0])
        result = self._values.compute(func, *self._with_values(func, args, kwargs))
        return pytree.tree_map_only(Tensor, lambda value: self._on(args[0].device, value), result)

    def _only_places(self, indices: Sequence[Any], device: torch.device, name: str = "index by a mask") -> list[Any]:
        """Replace each mask by the places where it is true, one tensor for each of its axes, as torch does."""
        places: list[Any] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(self._brought_to(device, index))
                continue
            self._note_wait(name, index)
            found = self._values.compute(_aten.nonzero.default, *self._with_values(name, [index], {}))
            axes = self._compute(_aten.unbind.int, [self._on(index.device, found), 1], {})
            places += [self._brought_to(device, axis) for axis in axes]
        return places

    def _brought_to(self, device: torch.device, index: Tensor | None) -> Tensor | None:
        """Copy an index to where it is needed, which torch does in silence."""
        if index is None or index.device == device:
            return index
        self._note_crossing("index", "device" if device.type == "cuda" else "host", index, waits=True)
        value = self._values.of(index)
        return torch.empty(index.shape, dtype=index.dtype, device=device) if value is None else self._on(device, value)

    def _with_values(self, what: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Make sure that the walk can go on.

        Raises:
            NotImplementedError: It would have to know what a network has computed.
        """
        if any(self._values.of(each) is None for each in tensors_in((args, kwargs))):
            raise NotImplementedError(f"{what} of numbers that nobody knows, at {site_of_operation()}")
        return args, kwargs

    def _on(self, device: torch.device, value: Tensor) -> Tensor:
        fake = torch.empty(value.shape, dtype=value.dtype, device=device)
        self._values.keep(fake, value)
        return fake

    # -------------------------------------------------------------------------------------------- what is written down

    def _note_attention(self, func: Any) -> None:
        name = func._schema.name
        calls = self.kernels if name.startswith(_KERNEL) else self.sdpa if name.startswith(_SDPA) else None
        if calls is not None:
            who = "gradient" if name.endswith("backward") else module_at_work(self._modules)
            calls[self.phase][who] += 1

    def _note_copy(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if func is _aten.copy_.default:
            source, device = args[1], args[0].device
            is_asked_not_to_wait = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            is_pinned = _has(args[0] if device.type == "cpu" else source, _PINNED)
        else:
            source, device = args[0], kwargs.get("device") or args[0].device
            is_asked_not_to_wait = kwargs.get("non_blocking", False)
            is_pinned = device.type == "cpu" or _has(source, _PINNED)  # torch makes a pinned copy then
        if {source.device.type, device.type} == {"cpu", "cuda"}:
            is_staged = device.type == "cuda" and source.nbytes <= _STAGED_BYTES
            waits = not (is_asked_not_to_wait and (is_pinned or is_staged))
            self._note_crossing("copy", "device" if device.type == "cuda" else "host", source, waits=waits)

    def _note_wait(self, what: str, asked: Tensor) -> None:
        if asked.device.type == "cuda":
            self._note_crossing(what, "host", asked, waits=True)

    def _note_crossing(self, what: str, to: Literal["host", "device"], tensor: Tensor, *, waits: bool) -> None:
        if not tensor.numel():  # never reaches the device
            return
        crossing = Crossing(
            phase=self.phase,
            what=what,
            where=site_of_operation(),
            waits=waits,
            to=to,
            num_bytes=tensor.nbytes,
            is_pixels=_has(tensor, _PIXELS),
        )
        self._crossings[crossing] += 1


def _plain_name(name: str) -> str:
    """Leave out what PEFT puts around a module and in it."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


def _has(tensor: Tensor, mark: str) -> bool:
    return bool(getattr(tensor, mark, False))


def _keep_mark(source: Tensor, copy: Tensor) -> Tensor:
    if _has(source, _PIXELS):
        setattr(copy, _PIXELS, True)
    return copy
