"""What a run starts from: base model, data and processor, opened and checked before a weight is loaded.

A fault in something small must not cost the time of loading something large.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpmv.data.collation import Collator
from minicpmv.data.dataset import ConversationDataset, LengthReport
from minicpmv.data.mixing import Mixture, Source, load_mixture
from minicpmv.data.skipping import SKIPPED, SkipLog, Skipped
from minicpmv.errors import UsageError
from minicpmv.models.versions import Version
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.arguments import RunArguments
from minicpmv.training.base import Base

__all__ = ["Material", "gather_material"]

_MAX_BAD_SHARE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Everything but weights."""

    base: Path
    config: dict[str, Any]
    version: Version
    train: ConversationDataset
    lengths: LengthReport | None
    """Of the records to train on; None if they are checked only when they are read."""
    held_out: ConversationDataset | None
    collator: Collator
    skip_log: SkipLog
    skipped: Skipped
    """Records that are left out from the beginning."""


def gather_material(run: RunArguments, base: Base, output_dir: str, *, seed: int) -> Material:
    """Read and check everything small.

    Args:
        run: The flags.
        base: What the run starts from.
        output_dir: Where the run will leave its files.
        seed: Decides which records of a source with a broken weight are seen.

    Raises:
        MiniCPMVError: Whatever is wrong with model, data or flags.
    """
    if base.path.resolve() == Path(output_dir).resolve():
        raise UsageError("--output_dir: found the base model's own directory\n  fix: choose another directory")

    def load(sources: list[Source]) -> Mixture:
        return load_mixture(
            sources,
            image_root=run.image_root,
            version=base.version,
            seed=seed,
            skip_bad=run.on_bad_record == "skip",
            check_first=run.check_first,
        )

    mixtures = [load(run.train_sources), load(run.eval_sources)]
    processor = MiniCPMVProcessor.from_pretrained(base.path)
    train, held_out = (_make_dataset(run, mixture, processor) for mixture in mixtures)
    reports = [dataset.check_lengths() for dataset in (train, held_out)] if run.check_first else []
    skip_log, skipped = _settle_skips(run, output_dir, mixtures, reports)
    if run.on_bad_record == "skip":
        train.skip_log = held_out.skip_log = skip_log
    if not len(train):
        raise UsageError(
            f"--on_long_record skip: found no record of at most {run.model_max_length} tokens, expected some\n"
            "  fix: raise --model_max_length"
        )
    pad_token_id: Any = processor.tokenizer.pad_token_id
    return Material(
        base=base.path,
        config=base.config,
        version=base.version,
        train=train,
        lengths=reports[0] if reports else None,
        held_out=held_out if len(held_out) else None,
        collator=Collator(pad_token_id if pad_token_id is not None else 0),
        skip_log=skip_log,
        skipped=skipped,
    )


def _make_dataset(run: RunArguments, mixture: Mixture, processor: MiniCPMVProcessor) -> ConversationDataset:
    return ConversationDataset(
        mixture.records,
        processor,
        max_length=run.model_max_length,
        max_slice_nums=run.max_slice_nums,
        on_long_record=run.on_long_record,
        truncate_answers=run.truncate_answers,
    )


def _settle_skips(
    run: RunArguments, output_dir: str, mixtures: list[Mixture], reports: list[LengthReport]
) -> tuple[SkipLog, Skipped]:
    """Collect what is left out, and make sure that it is not too much."""
    skip_log = SkipLog(
        path=Path(output_dir) / SKIPPED,
        num_records=sum(len(mixture.records) + len(mixture.left_out) for mixture in mixtures),
        max_share=_MAX_BAD_SHARE if run.max_bad_share is None else run.max_bad_share,
    )
    skipped = {name: problems for part in (*mixtures, *reports) for name, problems in part.left_out.items()}
    skip_log.check(skipped)
    return skip_log, skipped
