"""Opens and checks the inputs of a run before a weight is loaded: base model, data and processor.

A fault in a small file must not cost the time of loading a large one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.length_report import LengthReport
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.data.sources.cache import DataCache, Entry
from minicpmv.data.sources.mixing import DataSource, Mixture, load_mixture
from minicpmv.data.sources.skipping import SKIPPED, SkipLog, Skipped
from minicpmv.data.sources.source_digests import Content
from minicpmv.data.sources.validation import SplitSize, ValidationSplit
from minicpmv.errors import UsageError
from minicpmv.models.checkpoints.downsampling import mode_options
from minicpmv.models.checkpoints.film_settings import FILM_FIELDS, film_options, film_settings_of
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.table import Version
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.together import work_together
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint
from minicpmv.wording import is_off

__all__ = ["RunInputs", "find_cache", "open_inputs", "open_inputs_together"]

_MAX_BAD_SHARE = 0.01
_PROCESSOR_FILES = (".jinja", ".json", ".model", ".tiktoken", ".txt")
"""Suffixes of the files that determine how a checkpoint reads text and images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInputs:
    """The opened and checked inputs of a run, without weights."""

    base: Path
    config: dict[str, Any]
    version: Version
    train: ConversationDataset
    lengths: LengthReport | None
    """Lengths of the training records; None with ``--check_first false``."""
    validation: Mapping[str, ConversationDataset]
    """Validation sets by name; a single set has an empty name. Empty without validation."""
    split: ValidationSplit | None
    """The part of the training data that was split off for validation; None without a split."""
    collator: Collator
    skip_log: SkipLog
    skipped: Skipped
    """Records that are skipped from the start."""
    contents: Mapping[str, Content]
    """Digests of every data source, by its path."""
    pictures: PictureDigests | None
    """Digests of the training images; None with ``--check_first false``."""

    @property
    def first_validation(self) -> ConversationDataset | None:
        """The first validation set, if any."""
        return next(iter(self.validation.values()), None)

    @property
    def num_validation(self) -> int:
        """Number of records of all validation sets."""
        return sum(len(dataset) for dataset in self.validation.values())


def open_inputs_together(run: RunArguments, base: BaseCheckpoint, args: TrainingArguments) -> RunInputs:
    """Read and check the inputs of a run on every process, each a part of the data. Every process must call it.

    All have the joined result: the first one's ``--data_cache`` keeps and recalls it for all of them.

    Raises:
        MiniCPMVError: The model, the data or the flags have a fault.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    return work_together(lambda sharing: open_inputs(run, base, args.output_dir or "", seed=seed, sharing=sharing))


def open_inputs(
    run: RunArguments, base: BaseCheckpoint, output_dir: str, *, seed: int, sharing: Sharing = ALONE
) -> RunInputs:
    """Read and check the inputs of a run.

    Args:
        run: The flags.
        base: The base checkpoint.
        output_dir: The run's directory.
        seed: Decides which records of a source with a fractional weight are sampled.
        sharing: Processes of which each checks a part of the data.

    Raises:
        MiniCPMVError: The model, the data or the flags have a fault.
    """
    if base.path.resolve() == Path(output_dir).resolve():
        raise UsageError(
            "--output_dir: found the base model's own directory, expected another one\n  fix: choose another directory"
        )
    cache = _open_cache(run)

    def load(sources: list[DataSource], split: SplitSize | None = None) -> Mixture:
        return load_mixture(
            sources,
            image_root=run.image_root,
            version=base.version,
            seed=seed,
            skip_bad=run.on_bad_record == "skip",
            check_first=run.check_first,
            cache=cache,
            split=split,
            kind=run.kind,
            sharing=sharing,
        )

    train_mixture = load(run.train_sources, run.split)
    sets = {name: load(sources) for name, sources in run.eval_sources.items()}
    if train_mixture.validation is not None and len(train_mixture.validation.records):
        sets = {"": _validation_mixture(train_mixture, train_mixture.validation)}
    _tell_seen(train_mixture, sets)
    mixtures = [train_mixture, *sets.values()]
    for mixture in mixtures:
        for found in mixture.notices:
            notice(str(found))
    processor = MiniCPMVProcessor.from_pretrained(
        base.path,
        **mode_options(run.downsample_mode),
        **film_options(**{name: getattr(run, name) for name in FILM_FIELDS}),
    )
    train, *validation = datasets = [_make_dataset(run, mixture, processor) for mixture in mixtures]
    reports: list[LengthReport] = []
    if run.check_first:
        kept = [_kept_lengths(cache, base, mixture, of) for mixture, of in zip(mixtures, datasets, strict=True)]
        reports = [
            dataset.check_lengths(kept=entry, sharing=sharing) for dataset, entry in zip(datasets, kept, strict=True)
        ]
        _tell(cache, mixtures, kept)
    skip_log, skipped = _resolve_skips(run, output_dir, mixtures, reports)
    if run.on_bad_record == "skip":
        for dataset in datasets:
            dataset.skip_log = skip_log
    if not len(train):
        raise UsageError(
            f"--on_long_record skip: found no record of at most {run.model_max_length} tokens, expected some\n"
            "  fix: raise --model_max_length"
        )
    files = mixtures[0].files
    train.digests = None if files is None else PictureDigests(files, sharing=sharing)
    pad_token_id: Any = processor.tokenizer.pad_token_id
    return RunInputs(
        base=base.path,
        config=base.config,
        version=base.version,
        train=train,
        lengths=reports[0] if reports else None,
        validation={name: dataset for name, dataset in zip(sets, validation, strict=True) if len(dataset)},
        split=train_mixture.validation,
        collator=Collator(pad_token_id if pad_token_id is not None else 0),
        skip_log=skip_log,
        skipped=skipped,
        contents={path: content for mixture in mixtures for path, content in mixture.contents.items()},
        pictures=train.digests,
    )


def _tell_seen(train: Mixture, sets: Mapping[str, Mixture]) -> None:
    """Tell which validation files are trained on, too, whatever they are called."""
    paths = {content.sha256: path for path, content in train.contents.items()}
    for mixture in sets.values():
        for path, content in mixture.contents.items():
            if content.sha256 in paths:
                seen = f"{path!r} holds the same as {paths[content.sha256]!r}, which is trained on"
                notice(f"--eval_data_path: {seen}: its numbers show what was memorised")


def _validation_mixture(train: Mixture, split: ValidationSplit) -> Mixture:
    """Make a mixture of the validation split; the training mixture reports the faults and files of both."""
    identity = None if train.identity is None else [*train.identity, "held out"]
    return Mixture(records=split.records, left_out={}, contents={}, identity=identity, files=None, num_recalled=0)


def _is_kept(run: RunArguments) -> bool:
    return run.check_first and not is_off(run.data_cache)


def find_cache(run: RunArguments) -> Path | None:
    """Return the folder of ``--data_cache``; None if the cache is off, or this user has no home directory."""
    if is_off(run.data_cache):
        return None
    try:
        return Path(run.data_cache).expanduser()
    except RuntimeError:
        return None


def _open_cache(run: RunArguments) -> DataCache | None:
    if not _is_kept(run):
        return None
    folder = find_cache(run)
    if folder is None:
        notice(f"--data_cache: found no home directory for {run.data_cache!r}, so nothing is kept; name another folder")
        return None
    return DataCache(folder)


def _kept_lengths(
    cache: DataCache | None, base: BaseCheckpoint, mixture: Mixture, dataset: ConversationDataset
) -> Entry | None:
    """Find the cache entry for the lengths of these records under this processor and these limits."""
    if cache is None or not len(dataset):
        return None
    files = sorted(path for path in base.path.iterdir() if path.suffix in _PROCESSOR_FILES and path.is_file())
    processor = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    limits = asdict(dataset.limits) | mode_options(dataset.processor.downsample_mode)
    limits |= film_settings_of(dataset.processor.image_processor)
    if dataset.comparison.kind != "conversation":
        limits |= asdict(dataset.comparison)
    return cache.entry("lengths", records=mixture.identity, processor=processor, limits=limits)


def _tell(cache: DataCache | None, mixtures: list[Mixture], kept: list[Entry | None]) -> None:
    """Report which records were not checked again, and a cache that cannot be written."""
    num_recalled = sum(mixture.num_recalled for mixture in mixtures)
    if num_recalled:
        is_counted = all(entry is None or entry.was_found for entry in kept)
        counted = "" if is_counted else "; their tokens were counted again"
        say(f"data: {num_recalled:,} records as checked before (--data_cache false checks again){counted}")
    if cache is not None and cache.fault is not None:
        notice(f"--data_cache: {cache.folder} cannot be written ({cache.fault.strerror}); the next start checks again")


def _make_dataset(run: RunArguments, mixture: Mixture, processor: MiniCPMVProcessor) -> ConversationDataset:
    return ConversationDataset(
        mixture.records,
        processor,
        max_length=run.model_max_length,
        max_slice_nums=run.max_slice_nums,
        on_long_record=run.on_long_record,
        truncate_answers=run.truncate_answers,
        comparison=Comparison(kind=run.kind, segment_weight=run.segment_weight),
    )


def _resolve_skips(
    run: RunArguments, output_dir: str, mixtures: list[Mixture], reports: list[LengthReport]
) -> tuple[SkipLog, Skipped]:
    """Collect the skipped records, and verify that they are within the limit."""
    skip_log = SkipLog(
        path=Path(output_dir) / SKIPPED,
        num_records=sum(len(mixture.records) + len(mixture.left_out) for mixture in mixtures),
        max_share=_MAX_BAD_SHARE if run.max_bad_share is None else run.max_bad_share,
    )
    skipped = {name: problems for part in (*mixtures, *reports) for name, problems in part.left_out.items()}
    skip_log.check(skipped)
    return skip_log, skipped
