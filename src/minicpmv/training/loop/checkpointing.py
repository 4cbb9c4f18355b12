"""Extends transformers' Trainer with checkpoints that are whole or absent, and hold finite weights only.

What it overrides are private methods. Trainer writes a checkpoint's files directly under its final name and has no
public hook around that: `_get_output_dir` and `_save_checkpoint` may go when transformers writes checkpoints
atomically. It lets rank 0 write all weights alone between two collectives, whose timeout is short: `_save` and
`_save_optimizer_and_scheduler` may go when the others wait for as long as that takes. It loads weights key by key and
ignores unknown ones: `_load_from_checkpoint` and `_load_best_model` may go when it loads through `from_pretrained`,
which converts MiniCPM-V-2's keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import save_fsdp_optimizer
from torch import nn
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.files.atomic_files import STAGING
from minicpmv.files.disk_space import check_space, writing
from minicpmv.models.adapters.base_identity import BaseIdentity, write_base
from minicpmv.training.checkpoints.checkpoint_size import estimate_bytes
from minicpmv.training.checkpoints.manifest import num_bytes, seal
from minicpmv.training.checkpoints.restoring import find_own_checkpoint, restore_weights
from minicpmv.training.checkpoints.resume import PICTURES
from minicpmv.training.checkpoints.staging import publish, rotate
from minicpmv.training.checkpoints.trained_weights import refuse_not_finite
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.engine import name_engine
from minicpmv.training.distributed.processes import num_processes, raise_together, take_maximum, wait_for_all
from minicpmv.training.loop.last_good import way_out

__all__ = ["CheckpointingTrainer", "is_peft"]


class CheckpointingTrainer(Trainer):
    """Writes, verifies and reads the checkpoints of a run.

    Args:
        write_companions: Called on the writing process with each new checkpoint's directory, to add the small files
            that make a full checkpoint usable by itself.
        kwargs: Arguments of ``Trainer``.
    """

    def __init__(self, *, write_companions: Callable[[Path], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._write_companions = write_companions
        self._staging: str | None = None
        self._bytes_needed: int | None = None
        self.last_saved = -1
        """Step of the newest checkpoint that this process wrote; -1 for none."""
        self.fingerprint: Mapping[str, Any] = {}
        """Settings that determine the run's numbers, stored in each checkpoint."""
        self.base: BaseIdentity | None = None
        """Identity of the base weights, stored with each adapter."""
        self.pictures: PictureDigests | None = None
        """Digests of the training images, stored in each checkpoint."""

    @property
    def _live_model(self) -> nn.Module:
        assert self.model is not None, "it was built with one"
        return self.model

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _checkpoint_path(self) -> Path:
        return Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"

    # -------------------------------------------------------------------------------------------------------- writing

    def refuse_not_finite(self, *, with_optimizer: bool = False) -> None:
        """Verify before saving that all trained weights are finite. Every process must call it.

        Args:
            with_optimizer: Whether the optimizer's state is saved as well.

        Raises:
            NotFiniteError: A trained weight, or a value of that state, is NaN or infinite.
        """
        refuse_not_finite(
            self._live_model,
            where=f"step {self.state.global_step} of {self.state.max_steps}",
            fix=way_out(self.args, before=self.state.global_step),
            optimizer=self.optimizer if with_optimizer else None,
        )

    def save_now(self) -> None:
        """Write a checkpoint of the last step, unless there is one. Every process must call it."""
        if self.last_saved != self.state.global_step:
            self.args.save_only_model = False
            self._save_checkpoint(self._live_model, None)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.refuse_not_finite(with_optimizer=not self.args.save_only_model)
        final = self._checkpoint_path()
        staged = final.parent / STAGING / final.name
        needed = self._bytes_needed or estimate_bytes(
            self._live_model, None if self.is_deepspeed_enabled else self.optimizer
        )

        def write() -> None:
            with writing(staged, needed=needed):
                self._write_checkpoint(model, trial, staged)

        def finish() -> None:
            if self.args.should_save:
                with writing(staged, needed=needed):
                    self._finish(staged)
                publish(staged, final)

        raise_together(lambda: check_space(final.parent, self._bytes_needed or 0))
        self._join_pictures()
        if self._writes_in_turns:
            write()  # a process with a fault must leave, not wait here
            wait_for_all()
        else:
            raise_together(write)
        raise_together(finish)
        if self.args.local_process_index == 0 and staged.exists():  # on another machine with its own disk
            publish(staged, final)
        if self.args.should_save:
            keep = (str(final), self.state.best_model_checkpoint)
            rotate(final.parent, limit=self.args.save_total_limit, keep=keep)
            with suppress(OSError):  # another machine is still writing
                staged.parent.rmdir()
        wait_for_all()
        self.last_saved = self.state.global_step

    @property
    def _writes_in_turns(self) -> bool:
        """Return whether the processes wait for each other while they write a checkpoint."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled or self.state.best_global_step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as transformers does, and have every process wait for the one that writes."""
        super().save_model(output_dir, _internal_call)  # rank 0 writes all weights
        if self._writes_in_turns:  # not in _save: transformers before 5.23 calls it in the first process alone
            wait_for_all()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict:  # DeepSpeed copies tied weights apart, and both would be written
            tied: dict[str, str] = getattr(self._live_model, "all_tied_weights_keys", {})
            pairs = {name: same for name, same in tied.items() if {name, same} <= state_dict.keys()}
            state_dict = state_dict | {name: state_dict[same] for name, same in pairs.items()}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled or is_peft(self._live_model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # transformers would first write all weights once more, which nothing reads.
        plugin: Any = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self._live_model, output_dir)
        schedule: Any = self.lr_scheduler
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _join_pictures(self) -> None:
        """Merge the image digests of all processes' data workers on every process."""
        if self.pictures is not None and len(self.pictures) and num_processes() > 1:
            known = torch.from_numpy(self.pictures.digests.copy()).to(self.args.device)
            self.pictures.digests[:] = take_maximum(known).cpu().numpy()

    def _write_checkpoint(self, model: nn.Module, trial: Any, staged: Path) -> None:
        self._staging = str(staged.parent)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(self._checkpoint_path())

    def _finish(self, staged: Path) -> None:
        self.state.save_to_json(
            str(staged / TRAINER_STATE_NAME)
        )  # again, since it now names the best checkpoint's final path
        (staged / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # an unused pickle; run.json has the settings
        if self._write_companions is not None:
            self._write_companions(staged)
        if is_peft(self._live_model) and self.base is not None:
            write_base(staged, self.base)
        if self.pictures is not None and len(self.pictures):
            np.savez(staged / PICTURES, states=self.pictures.states, digests=self.pictures.digests)
        seal(
            staged,
            step=self.state.global_step,
            world_size=self.args.world_size,
            engine=name_engine(self.args),
            fingerprint=self.fingerprint,
        )
        self._bytes_needed = num_bytes(staged)

    # -------------------------------------------------------------------------------------------------------- reading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        live: Any = model if model is not None else self.model
        if is_peft(live):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        restore_weights(live, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint or "")
        # A resumed run has this name from a file of the checkpoint, which may be forged.
        self.state.best_model_checkpoint = str(find_own_checkpoint(self.args.output_dir or "", best))
        if is_peft(self.model) or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        assert self.state.best_model_checkpoint is not None, "Trainer calls it only if there is one"
        notice(f"loading the best checkpoint, {self.state.best_model_checkpoint}")
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def is_peft(model: Any) -> bool:
    """Return whether PEFT has wrapped a model."""
    return hasattr(model, "peft_config")
