"""``python -m minicpmv.training.finish.verify DIRECTORY``: is what a run saved the model that it trained?

The run asks in a process of its own, which knows the directory and nothing else; anybody can ask again later. The
answer is printed and written to ``proof.json``. Whatever is loaded, it is loaded as ``minicpmv chat`` does.
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

from minicpmv.devices.memory import free_memory
from minicpmv.errors import CheckpointError, MiniCPMVError
from minicpmv.files.atomic_files import write_json
from minicpmv.inference.loading import base_of_adapter, load_model
from minicpmv.machine.installed import list_versions
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.models.checkpoints.reference import EVIDENCE, PROOF, Evidence, digest_tensors, read_evidence
from minicpmv.models.finiteness import find_not_finite
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.checkpoints.trained_weights import name_few
from minicpmv.training.learning.lora import keep_packing, quantisation

__all__ = ["describe_proof", "main", "prove"]

_ROOM = 1.25
"""Memory that loading takes, in sizes of the weights; the batch is small beside them."""
_MOST_SHOWN = 5


def main(arguments: Sequence[str]) -> int:
    """Prove a directory; return 0 if what it holds is what was trained, else 2."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m minicpmv.training.finish.verify DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    try:
        proof = prove(directory)
    except MiniCPMVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    is_proved = proof["verdict"] == "proved"
    print(describe_proof(proof, directory), file=sys.stdout if is_proved else sys.stderr)
    return 0 if is_proved else 2


def prove(directory: Path) -> dict[str, Any]:
    """Load a run's directory, compare it with the evidence in it, and write ``proof.json``.

    Returns:
        What that file holds. ``verdict`` is ``proved``, ``differs``, or ``no room`` if the machine cannot load it now.

    Raises:
        CheckpointError: The directory has no evidence.
    """
    started = time.perf_counter()
    evidence, batch = read_evidence(directory)
    proof: dict[str, Any] = {
        "verdict": "differs",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "batch": {"file": EVIDENCE, "records": evidence.records, "tokens": batch["input_ids"].numel()},
    }
    if evidence.rounding:
        proof["rounding"] = evidence.rounding
    place = _choose_place(evidence)
    if place is None:
        needed = min(_num_bytes(evidence, name) for name in evidence.dtypes)
        free = free_memory(torch.device("cpu"))
        proof |= {"verdict": "no room", "bytes_needed": needed, "bytes_free": free}
    else:
        device, dtype = place
        proof |= {"device": str(device), "dtype": dtype, "autocast": evidence.autocast}
        try:
            proof |= _compare(_load(directory, evidence, device, dtype), evidence, batch, device)
        except CheckpointError as error:  # such as a tensor that is not there
            proof["refused"] = str(error)
    proof |= {"seconds": round(time.perf_counter() - started, 1), "versions": list_versions()}
    write_json(directory / PROOF, proof)
    return proof


def describe_proof(proof: dict[str, Any], directory: Path) -> str:
    """Say in one line that a model is proved, or as an error what was found instead."""
    if proof["verdict"] == "no room":
        return (
            f"{directory}: found {proof['bytes_free']:,} bytes of memory free, expected {proof['bytes_needed']:,} to "
            "load it beside the run; it is saved, not proved\n"
            f"  fix: when there is more, python -m minicpmv.training.finish.verify {directory}"
        )
    again = (
        "--resume_from_checkpoint true saves it once more; if that does not help, report it with "
        f"{PROOF}, and until then use the newest checkpoint"
    )
    if "refused" in proof:
        found, _, fix = proof["refused"].partition("\n  fix: ")
        return f"{found}; so it is not what was trained\n  fix: {fix}, or {again}"
    tensors, loss = proof["tensors"], proof["loss"]
    if tensors["identical"] != tensors["saved"] or tensors["not_saved"]:
        wrong = [f"{name}: other values" for name in tensors["different"]]
        wrong += [f"{name}: not there" for name in tensors["missing"]]
        wrong += [f"{name}: trained, not saved" for name in tensors["not_saved"]]
        shown = wrong[:_MOST_SHOWN] + ([f"... and {len(wrong) - _MOST_SHOWN} more"] if wrong[_MOST_SHOWN:] else [])
        lines = "".join(f"\n    {line}" for line in shown)
        return (
            f"{directory}: found {len(wrong)} of {tensors['saved']} tensors other than they were trained, expected all "
            f"identical when loaded anew{lines}\n  fix: {again}"
        )
    if proof["not_finite"]:
        return (
            f"{directory}: found weights that are not finite (NaN or infinite): {name_few(proof['not_finite'])}, "
            "expected finite ones; all saved tensors are as they were trained\n  fix: use an earlier checkpoint, or "
            "train again with a lower --learning_rate; if the base's are among them, download it again"
        )
    if isinstance(loss["difference"], str):
        return (
            f"{directory}: found finite weights, but a loss of {loss['loaded']} on the records of the proof (live "
            f"{loss['live']}), expected a finite one: numbers computed from them are too large for {proof['dtype']}\n"
            "  fix: use an earlier checkpoint, or train again with a lower --learning_rate"
        )
    if proof["verdict"] == "differs":
        return (
            f"{directory}: found a loss of {loss['loaded']:.6g} when loaded anew, expected {loss['live']:.6g} as the "
            f"trained model has on the same records, within {loss['tolerance']:.2g}: all {tensors['saved']} saved "
            f"tensors are identical\n  fix: make sure that nothing changes the base model's directory; {again}"
        )
    return (
        f"Proved: loaded anew, {tensors['identical']} of {tensors['saved']} saved tensors identical, "
        f"loss {loss['loaded']:.4f} (live {loss['live']:.4f})"
    )


def _choose_place(evidence: Evidence) -> tuple[torch.device, str] | None:
    """Return where the model has room, and in which precision; weights pass through the CPU in any case."""
    cpu = torch.device("cpu")
    fitting = [name for name in evidence.dtypes if _num_bytes(evidence, name) <= free_memory(cpu)]
    if not fitting:
        return None
    gpu = torch.device("cuda", 0)
    on_gpu = [name for name in fitting if torch.cuda.is_available() and _num_bytes(evidence, name) <= free_memory(gpu)]
    return (gpu, on_gpu[0]) if on_gpu else (cpu, fitting[0])


def _num_bytes(evidence: Evidence, dtype: str) -> int:
    return int(_ROOM * evidence.num_weights * getattr(torch, dtype).itemsize)


def _load(directory: Path, evidence: Evidence, device: torch.device, dtype: str) -> Any:
    precision = getattr(torch, dtype)
    if not evidence.in_four_bits:
        return load_model(directory, device=device, dtype=precision).model
    # As above, but with the weights that the adapter was trained on: packing changes the loss by far more than a
    # tensor of the adapter that is lost.
    base = MiniCPMVForConditionalGeneration.from_pretrained(
        base_of_adapter(directory),
        dtype=precision,
        quantization_config=quantisation(getattr(torch, evidence.autocast or dtype)),
        device_map={"": device},
    )
    keep_packing(base)
    return attach_adapter(base, directory)


def _compare(model: Any, evidence: Evidence, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    state = model.state_dict()
    found = digest_tensors(state, {name: dtype for name, (dtype, _) in evidence.tensors.items() if name in state})
    missing = [name for name in evidence.tensors if name not in state]
    different = [name for name, digest in found.items() if digest != evidence.tensors[name][1]]
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    precision = evidence.autocast
    computing = torch.autocast(device.type, getattr(torch, precision)) if precision is not None else nullcontext()
    model.eval()
    with torch.no_grad(), computing:
        loss = float(model(**inputs).loss)
    difference = abs(loss - evidence.loss)
    is_near = math.isfinite(difference) and difference <= evidence.tolerance
    return {
        "verdict": "proved" if is_near and not (missing or different or evidence.not_saved) else "differs",
        "tensors": {
            "saved": len(evidence.tensors),
            "identical": len(found) - len(different),
            "different": different,
            "missing": missing,
            "not_saved": evidence.not_saved,
        },
        "not_finite": find_not_finite(state.items()),
        "loss": {
            "live": _as_json(evidence.loss),
            "loaded": _as_json(loss),
            "difference": _as_json(difference),
            "tolerance": evidence.tolerance,
            "reason": evidence.reason,
        },
    }


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no word for it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
