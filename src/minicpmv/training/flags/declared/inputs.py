"""Declares the model, the data, how long records may be and how they share rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minicpmv.data.sources.mixing import DataSource, parse_source, parse_validation_sets
from minicpmv.data.sources.validation import SplitSize, parse_split
from minicpmv.releases.table import LLM_TYPES
from minicpmv.training.flags.fields import COUNT, FRACTION, POSITIVE, Range, declare, list_of, switch

__all__ = ["InputArguments"]


@dataclass(frozen=True, kw_only=True)
class InputArguments:
    """The inputs of a run, and the rows that are made of them."""

    model_name_or_path: str = declare(
        "",
        "Directory or hub name of the MiniCPM-V checkpoint to start from. Required.",
        group="Model",
        resume="content",
    )
    llm_type: str | None = declare(
        None,
        f"Checked against the checkpoint, never needed. One of {', '.join(LLM_TYPES)}.",
        group="Model",
        resume="free",
    )
    cache_dir: str | None = declare(
        None, "Folder for downloaded checkpoints. Default: transformers' own.", group="Model", resume="free"
    )
    data_path: list[str] = list_of(
        "Files (JSON, JSON Lines, Parquet), folders of them or dataset directories to train on. PATH:2 is seen twice "
        "in an epoch, PATH:0.5 by half. Required.",
        group="Data",
        resume="content",
    )
    eval_data_path: list[str] = list_of(
        "Validation data: measured, never trained on; without weights. Each of several files is measured by itself and "
        "logged as eval_NAME_loss: --eval_data_path charts.json receipts=more/val.json. NAME defaults to the file's "
        "name. Default: see --validation_split.",
        group="Data",
        resume="free",
    )
    validation_split: str | None = declare(
        None,
        "Records of --data_path that are held out for validation when there is no --eval_data_path: a share (0.1), a "
        "number (200), or 0 for none. Default: 5 %, from 10 to 500 records, of data with 100 records or more.",
        group="Data",
        resume="content",
    )
    image_root: str | None = declare(
        None,
        "Folder that relative image paths start from. Default: the data file's own.",
        group="Data",
        resume="free",  # images count by their content
    )
    on_bad_record: Literal["error", "skip"] = declare(
        "error",
        "What to do with a record that has a problem, before or during the run. error: stop and name it. skip: "
        "continue without it, and name it in the log and in OUTPUT_DIR/skipped.jsonl.",
        group="Data",
        resume="same",
    )
    max_bad_share: float | None = declare(
        None,
        "With --on_bad_record skip: stop when more than this share of all records is bad. Default: 0.01.",
        group="Data",
        resume="free",
        range=FRACTION,
    )
    check_first: bool = declare(
        True,
        "Check every record, open every image and count all tokens before the first step. false: check records when "
        "they are read, which starts sooner on very many records; without lengths nothing is packed.",
        group="Data",
        resume="free",
    )
    data_cache: str = declare(
        "~/.cache/minicpmv",
        "Folder for the results of checking sound data, so that the next start on the same data takes seconds. false: "
        "keep nothing, and check everything again.",
        group="Data",
        resume="free",
    )
    model_max_length: int = declare(
        2048,
        "Tokens of the longest record, image tokens included.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    on_long_record: Literal["fewer_slices", "error", "skip"] = declare(
        "fewer_slices",
        "What to do with a longer record. fewer_slices: cut its images into as many slices as fit, and stop if one "
        "slice for each is too long. skip: the same, but leave such a record out and name it in "
        "OUTPUT_DIR/skipped.jsonl. error: stop.",
        group="Batches and length",
        resume="same",
    )
    truncate_answers: bool = declare(
        False,
        "Cut the end of the last answer from a record that does not fit otherwise. Images and other turns stay whole.",
        group="Batches and length",
        resume="same",
    )
    downsample_mode: str | None = declare(
        None,
        "How far pictures are shrunk (4.6 and later): 16x, or 4x for four times the image tokens. What is saved states "
        "it. Default: what the checkpoint states.",
        group="Batches and length",
        resume="same",
    )
    max_slice_nums: int | None = declare(
        None,
        "Most tiles cut from one image. Default: what the checkpoint states.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    video_fps: float | None = declare(
        None,
        "Frames a second that are taken of a film. What is saved states it, and the next two. Default: as the release "
        "is officially fed (1; 4.5: 3).",
        group="Batches and length",
        resume="same",
        range=Range(most=240, without_least=True),
    )
    max_frames: int | None = declare(
        None,
        "Most frames of one film. Default: as the release is officially fed (2.6, 4.0, o: 64; 4.5: 540; 4.6, 4.7: "
        "128).",
        group="Batches and length",
        resume="same",
        range=Range(least=1, most=2048),
    )
    video_max_slice_nums: int | None = declare(
        None,
        "Most tiles cut from one frame of a film. Default: 1; official examples of 2.6 also use 2.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    packing: bool | None = switch(
        "Train on packed rows: records end to end, up to --pack_length tokens, without attending to each other. "
        "--per_device_train_batch_size counts such rows; several of them form one longer row. Default: true, unless a "
        "flag asks for what only padded batches can do (--train_sampling_strategy group_by_length, "
        "--dataloader_drop_last true).",
        group="Batches and length",
        resume="same",
    )
    pack_length: int | None = declare(
        None,
        "Tokens of a packed row. Default: --model_max_length.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    pack_patches: int | None = declare(
        None,
        "Most patches that the vision tower sees in a packed row, or those of the record that has most. Default: for "
        "releases whose frames share blocks of tokens (4.5) as many as a row of pictures alone would have; for others "
        "no bound beside --pack_length, which implies one.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    vision_cache: str | None = declare(
        None,
        "Folder for the features of a frozen vision tower, so that it sees each image once, in all epochs and in all "
        "runs that share the folder. true: ~/.cache/minicpmv/vision. Needs --tune_vision false.",
        group="Precision and memory",
        resume="free",
        bare="true",
    )
    vision_cache_gb: float = declare(
        50.0,
        "Largest size of that folder, in gigabytes. Least recently used features are removed first; what this run uses "
        "stays, and when nothing else is left, no more is stored.",
        group="Precision and memory",
        resume="free",
        range=POSITIVE,
    )

    @property
    def train_sources(self) -> list[DataSource]:
        """The sources in ``data_path``.

        Raises:
            UsageError: A weight is not positive.
        """
        return [parse_source(written, flag="--data_path") for written in self.data_path]

    @property
    def eval_sources(self) -> dict[str, list[DataSource]]:
        """The sources in ``eval_data_path``, by the name of their set, which is empty if there is only one.

        Raises:
            UsageError: A source has a weight, or two sets have the same name.
        """
        return parse_validation_sets(self.eval_data_path, flag="--eval_data_path")

    @property
    def split(self) -> SplitSize | None:
        """How much of ``data_path`` is held out; None: nothing.

        Raises:
            UsageError: ``validation_split`` is not a size.
        """
        if self.eval_data_path or (self.validation_split is None and not self.check_first):
            return None
        return parse_split(self.validation_split)

    @property
    def may_evaluate(self) -> bool:
        """Whether there may be validation records; how many are held out is known when the data are read."""
        return bool(self.eval_data_path) or self.split is not None
