"""Verifies that the model a run saved is the one it trained: ``python -m minicpmv.training.finish.reload DIRECTORY``.

The run calls it in a process of its own, which knows only the directory; users can call it again later. The result is
printed and written to ``verification.json``. The model is loaded as ``minicpmv chat`` loads it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from minicpmv.devices.memory import free_memory
from minicpmv.errors import CheckpointError, MiniCPMVError
from minicpmv.files.atomic_files import write_json
from minicpmv.inference.loading import base_of_adapter, load_model
from minicpmv.machine.installed import list_versions
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.models.adapters.base_identity import mode_of_adapter
from minicpmv.models.checkpoints.carried import find_carried
from minicpmv.models.checkpoints.downsampling import mode_options
from minicpmv.models.checkpoints.reference import REFERENCE, VERIFICATION, Reference, digest_tensors, read_reference
from minicpmv.models.checkpoints.weight_files import find_weight_files
from minicpmv.models.finiteness import find_not_finite
from minicpmv.models.skeleton import load_weights
from minicpmv.training.learning.lora import quantization
from minicpmv.wording import list_few, name_few

__all__ = ["describe_verification", "main", "verify"]

_ROOM = 1.25
"""Memory that loading takes, as a multiple of the weights' size; the batch is small in comparison."""


def main(arguments: Sequence[str]) -> int:
    """Verify a directory; return 0 if it holds the trained model, else 2."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m minicpmv.training.finish.reload DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    try:
        result = verify(directory)
    except MiniCPMVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    is_verified = result["verdict"] == "verified"
    print(describe_verification(result, directory), file=sys.stdout if is_verified else sys.stderr)
    return 0 if is_verified else 2


def verify(directory: Path) -> dict[str, Any]:
    """Load a run's directory, compare it with the reference in it, and write ``verification.json``.

    Returns:
        The content of that file. ``verdict`` is ``verified``, ``differs``, or ``no room`` if memory is too small.

    Raises:
        CheckpointError: The directory has no reference.
    """
    started = time.perf_counter()
    reference, batch = read_reference(directory)
    result: dict[str, Any] = {
        "verdict": "differs",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "batch": {"file": REFERENCE, "records": reference.records, "tokens": batch["input_ids"].numel()},
    }
    if reference.rounding:
        result["rounding"] = reference.rounding
    place = _choose_place(reference)
    if place is None:
        needed = min(_num_bytes(reference, name) for name in reference.dtypes)
        free = free_memory(torch.device("cpu"))
        result |= {"verdict": "no room", "bytes_needed": needed, "bytes_free": free}
    else:
        device, dtype = place
        result |= {"device": str(device), "dtype": dtype, "autocast": reference.autocast}
        try:
            model = _load(directory, reference, device, dtype)
            result |= _compare(model, reference, batch, device)
            result |= _compare_carried(directory, model, reference)
        except CheckpointError as error:  # such as a tensor that is not there
            result["refused"] = str(error)
    result |= {"seconds": round(time.perf_counter() - started, 1), "versions": list_versions()}
    write_json(directory / VERIFICATION, result)
    return result


def describe_verification(result: dict[str, Any], directory: Path) -> str:
    """Describe the result: one line for a verified model, otherwise an error message."""
    if result["verdict"] == "no room":
        return (
            f"{directory}: found {result['bytes_free']:,} bytes of memory free, expected {result['bytes_needed']:,} to "
            "load the model next to the run; it is saved, but not verified\n"
            f"  fix: with more memory, run python -m minicpmv.training.finish.reload {directory}"
        )
    again = (
        "--resume_from_checkpoint true saves it again; if that does not help, report the problem with "
        f"{VERIFICATION}, and until then use the newest checkpoint"
    )
    if "refused" in result:
        found, _, fix = result["refused"].partition("\n  fix: ")
        return f"{found}; so this is not the trained model\n  fix: {fix}, or {again}"
    tensors, loss = result["tensors"], result["loss"]
    if tensors["identical"] != tensors["saved"] or tensors["not_saved"]:
        wrong = [f"{name}: other values" for name in tensors["different"]]
        wrong += [f"{name}: not there" for name in tensors["missing"]]
        wrong += [f"{name}: trained, not saved" for name in tensors["not_saved"]]
        return (
            f"{directory}: found {len(wrong)} of {tensors['saved']} tensors that differ from the trained ones, "
            f"expected all identical after reloading\n"
            f"{list_few(wrong, most=5, indent='    ')}\n  fix: {again}"
        )
    carried = result.get("carried", {"different": [], "missing": []})
    wrong = [f"{name}: other bytes" for name in carried["different"]] + [
        f"{name}: not in both" for name in carried["missing"]
    ]
    if wrong:
        return (
            f"{directory}: found {len(wrong)} tensors that differ from the base's, though they are not trained: "
            f"{name_few(wrong)}, expected copies of the same bytes\n  fix: make sure that nothing changes the base "
            f"model's directory; {again}"
        )
    if result["not_finite"]:
        return (
            f"{directory}: found weights that are not finite (NaN or infinite): {name_few(result['not_finite'])}, "
            "expected finite ones; all saved tensors equal the trained ones\n  fix: use an earlier checkpoint, or "
            "train again with a lower --learning_rate; if weights of the base are among them, download it again"
        )
    if isinstance(loss["difference"], str):
        return (
            f"{directory}: found finite weights, but a loss of {loss['loaded']} on the stored records (live "
            f"{loss['live']}), expected a finite one: activations exceed the range of {result['dtype']}\n"
            "  fix: use an earlier checkpoint, or train again with a lower --learning_rate"
        )
    if result["verdict"] == "differs":
        return (
            f"{directory}: found a loss of {loss['loaded']:.6g} after reloading, expected {loss['live']:.6g}, the "
            f"trained model's on the same records, within {loss['tolerance']:.2g}, as all {tensors['saved']} saved "
            f"tensors are identical\n  fix: make sure that nothing changes the base model's directory; {again}"
        )
    return (
        f"Verified: reloaded, {tensors['identical']} of {tensors['saved']} saved tensors identical, "
        f"loss {loss['loaded']:.4f} (live {loss['live']:.4f})"
        + (f"; {carried['tensors']} tensors carried over, identical byte for byte" if carried.get("tensors") else "")
    )


def _choose_place(reference: Reference) -> tuple[torch.device, str] | None:
    """Return a device with memory for the model, and the precision; weights pass through the CPU in any case."""
    cpu = torch.device("cpu")
    fitting = [name for name in reference.dtypes if _num_bytes(reference, name) <= free_memory(cpu)]
    if not fitting:
        return None
    gpu = torch.device("cuda", 0)
    on_gpu = [name for name in fitting if torch.cuda.is_available() and _num_bytes(reference, name) <= free_memory(gpu)]
    return (gpu, on_gpu[0]) if on_gpu else (cpu, fitting[0])


def _num_bytes(reference: Reference, dtype: str) -> int:
    return int(_ROOM * reference.num_weights * getattr(torch, dtype).itemsize)


def _load(directory: Path, reference: Reference, device: torch.device, dtype: str) -> Any:
    precision = getattr(torch, dtype)
    if not reference.in_four_bits:
        return load_model(directory, device=device, dtype=precision).model
    # As above, but with the weights that the adapter was trained on: quantization changes the loss by far more than
    # a lost tensor of the adapter.
    place = base_of_adapter(directory)
    assert place is not None, "only an adapter's run loads its base in 4 bits"
    config: Any = AutoConfig.from_pretrained(place)
    packing = quantization(getattr(torch, reference.autocast or dtype), config.minicpmv_version.network)
    options = mode_options(mode_of_adapter(directory))
    base = load_weights(place, dtype=precision, quantization_config=packing, device_map={"": device}, **options)
    return attach_adapter(base, directory)


def _compare(model: Any, reference: Reference, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    state = model.state_dict()
    found = digest_tensors(state, {name: dtype for name, (dtype, _) in reference.tensors.items() if name in state})
    missing = [name for name in reference.tensors if name not in state]
    different = [name for name, digest in found.items() if digest != reference.tensors[name][1]]
    not_finite = find_not_finite(state.items())
    del state  # or both precisions would take memory
    if reference.rounded_to is not None:  # otherwise the loss would differ by what rounding every weight changes
        model.to(getattr(torch, reference.rounded_to))
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    precision = reference.autocast
    computing = torch.autocast(device.type, getattr(torch, precision)) if precision is not None else nullcontext()
    model.eval()
    with torch.no_grad(), computing:
        loss = float(model(**inputs).loss)
    difference = abs(loss - reference.loss)
    is_near = math.isfinite(difference) and difference <= reference.tolerance
    return {
        "verdict": "verified" if is_near and not (missing or different or reference.not_saved) else "differs",
        "tensors": {
            "saved": len(reference.tensors),
            "identical": len(found) - len(different),
            "different": different,
            "missing": missing,
            "not_saved": reference.not_saved,
        },
        "not_finite": not_finite,
        "loss": {
            "live": _as_json(reference.loss),
            "loaded": _as_json(loss),
            "difference": _as_json(difference),
            "tolerance": reference.tolerance,
            "reason": reference.reason,
        },
    }


def _compare_carried(directory: Path, model: Any, reference: Reference) -> dict[str, Any]:
    """Compare what was copied as bytes with what the base held; an adapter's directory has none."""
    if not reference.carried:
        return {}
    prefixes = model.config.minicpmv_version.network.carried
    different, missing = find_carried(find_weight_files(directory), prefixes).compare(reference.carried)
    carried = {"tensors": len(reference.carried), "different": different, "missing": missing}
    return {"carried": carried} | ({"verdict": "differs"} if different or missing else {})


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no NaN or infinity


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
