"""Identifies the base weights of a run while its data are checked, and compares them with an adapter's base."""

from __future__ import annotations

import threading
from pathlib import Path

from transformers import TrainingArguments

from minicpmv.errors import CheckpointError, MiniCPMVError
from minicpmv.models.adapters.base_identity import BaseIdentity, compare_base, identify_base
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.processes import gather, raise_together
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint
from minicpmv.training.inputs.run_inputs import find_cache

__all__ = ["BaseReading", "compare_adapter"]


class BaseReading:
    """Digests the base's weights on the first process of each machine, in a thread. Every process must make one.

    Args:
        run: The flags.
        base: The base checkpoint. The weights of a hub name may still be missing; :meth:`result` waits for them.
        args: As training has them.
    """

    def __init__(self, run: RunArguments, base: BaseCheckpoint, args: TrainingArguments) -> None:
        self._run = run
        self._is_leader = args.local_process_index == 0
        self._found: BaseIdentity | MiniCPMVError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)  # data faults end the run at once
        self._is_local = Path(run.model_name_or_path).expanduser().is_dir()
        self._base = str(base.path) if self._is_local else run.model_name_or_path
        if self._is_leader and self._is_local:
            self._thread.start()

    def result(self) -> BaseIdentity:
        """Wait for it. Every process must call it.

        Raises:
            CheckpointError: There are no weights, they are broken, or machines have different ones.
        """
        if self._is_leader:
            if not self._is_local:
                self._thread.start()
            self._thread.join()
        found = gather(self._found)
        faults = [each for each in found if isinstance(each, MiniCPMVError)]
        if faults:
            raise faults[0]
        first = found[0]
        assert isinstance(first, BaseIdentity), "process 0 is the first of its machine"
        for rank, other in enumerate(found):
            if isinstance(other, BaseIdentity) and other.find_difference(first) is not None:
                raise CheckpointError(
                    f"--model_name_or_path: process 0 found {first}, process {rank} on another machine found {other}, "
                    "expected the same\n"
                    "  fix: give every machine the same model"
                )
        return first

    def _read(self) -> None:
        cache = find_cache(self._run)
        try:
            self._found = identify_base(
                self._base, kept=None if cache is None else cache / "weights", cache_dir=self._run.cache_dir
            )
        except MiniCPMVError as fault:
            self._found = fault


def compare_adapter(run: RunArguments, base: BaseIdentity, args: TrainingArguments) -> list[str]:
    """Verify that the adapter to start from was trained on this base. Every process must call it.

    Returns:
        The differences that a flag allows.

    Raises:
        CheckpointError: It was trained on another base.
    """
    allowed: list[str] = []

    def compare() -> None:
        assert run.lora_weight_path is not None, "there is an adapter"
        found = compare_base(
            run.lora_weight_path, base, allow_other=run.allow_other_base, switch="--allow_other_base true"
        )
        allowed.extend([] if found is None else [f"--lora_weight_path {run.lora_weight_path}: {found}"])

    raise_together(lambda: compare() if args.local_process_index == 0 else None)
    for text in allowed:
        notice(text)
    return allowed
