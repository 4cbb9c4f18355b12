"""The flags of a run: the official script's own names, and every field of transformers' ``TrainingArguments``.

Parsing only says what was asked for; ``settings`` fills in what was not, once the machine is known.
"""

from __future__ import annotations

import difflib
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from minicpmv.data.sources.mixing import Source, parse_source, parse_validation_sets
from minicpmv.data.sources.validation import SplitSize, parse_split
from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.releases.table import LLM_TYPES
from minicpmv.terminal.redaction import clean_command
from minicpmv.training.flags.learning_flags import LearningArguments, check_learning
from minicpmv.training.flags.learning_flags import flag as _flag
from minicpmv.training.flags.learning_flags import switch as _switch
from minicpmv.training.flags.legacy_flags import modernise
from minicpmv.training.flags.ranges import check_ranges, refuse_whole_shares

__all__ = ["Request", "RunArguments", "parse_arguments"]


@dataclass(kw_only=True)
class _Subject:
    """What is trained, and on what: ``--help`` names it first."""

    model_name_or_path: str = _flag("", "Directory, or hub name, of the MiniCPM-V checkpoint to start from. Required.")
    data_path: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (JSON, JSON Lines, Parquet), folders of them or dataset directories to train on. PATH:2 is "
            "seen twice in an epoch, PATH:0.5 by half. Required."
        },
    )
    eval_data_path: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data that are measured, never trained on; without weights. Several are measured each by itself "
            "and logged as eval_NAME_loss: --eval_data_path charts.json receipts=more/val.json. NAME is that of the "
            "file if it is not given. Default: see --validation_split."
        },
    )
    validation_split: str | None = _flag(
        None,
        "Records of --data_path that are held out to be measured, where there is no --eval_data_path: a share (0.1), a "
        "number (200), or 0 for none. Default: 5 %%, from 10 to 500 records, of data with 100 records or more.",
    )
    image_root: str | None = _flag(None, "Folder at which relative image paths start; default: the data file's own.")


@dataclass(kw_only=True)
class RunArguments(LearningArguments, _Subject):
    """What a run needs beside transformers' ``TrainingArguments``."""

    llm_type: str | None = _flag(
        None, f"Checked against the checkpoint, never needed. One of {', '.join(LLM_TYPES)}.".replace("%", "%%")
    )
    num_processes: int | None = _flag(
        None,
        "Processes on this machine, each on a GPU of its own. Default: one for each GPU (CUDA_VISIBLE_DEVICES shows "
        "fewer); on a CPU one. A launcher such as torchrun says it otherwise.",
    )
    cache_dir: str | None = _flag(None, "Where downloaded checkpoints are kept; transformers' own place by default.")
    on_bad_record: Literal["error", "skip"] = _flag(
        "error",
        "What to do with a record that has a problem, before or during the run. error: stop and name it. skip: go on "
        "without it, and name it in the log and in OUTPUT_DIR/skipped.jsonl.",
    )
    max_bad_share: float | None = _flag(
        None, "With --on_bad_record skip: the run stops when more of all records than this are bad. Default: 0.01."
    )
    check_first: bool = _flag(
        True,
        "Check every record, open every image and count all tokens before the first step. false: as they are read, "
        "which starts sooner on very many records; without lengths nothing is packed.",
    )
    data_cache: str = _flag(
        "~/.cache/minicpmv",
        "Folder that keeps what was found in sound data, so that the next start on the same data takes seconds. false: "
        "keep nothing, and check everything again.",
    )
    model_max_length: int = _flag(2048, "Tokens of the longest record, image tokens included.")
    on_long_record: Literal["fewer_slices", "error", "skip"] = _flag(
        "fewer_slices",
        "What to do with a longer record. fewer_slices: cut its images into as many slices as fit; if one for each is "
        "too long, stop. skip: the same, but leave it out then, and name it in OUTPUT_DIR/skipped.jsonl. error: stop.",
    )
    truncate_answers: bool = _flag(
        False,
        "Let a record that does not fit otherwise lose the end of its last answer. Images and other turns stay whole.",
    )
    max_slice_nums: int | None = _flag(None, "Most tiles cut from one image; default: what the checkpoint states.")
    packing: bool | None = _switch(
        "Train on packed rows: records end to end, up to --pack_length tokens, none of which sees another. "
        "--per_device_train_batch_size counts such rows; several of them are one longer row. Default: true, unless a "
        "flag asks for what only padded batches can do (--train_sampling_strategy group_by_length, "
        "--dataloader_drop_last true)."
    )
    pack_length: int | None = _flag(None, "Tokens of a packed row. Default: --model_max_length.")
    eval_samples: int = _flag(
        2,
        "Records of each evaluation set whose first question the model answers, before the first step and at each "
        "evaluation: the first ones, greedily, into OUTPUT_DIR/samples.jsonl. 0: none.",
    )
    eval_sample_tokens: int = _flag(64, "Tokens of the longest such answer.")
    eval_metrics: str | None = _flag(
        None,
        "Metrics of the model's answers to the evaluation sets, measured at each evaluation and logged as eval_METRIC, "
        "or eval_NAME_METRIC of several sets: --eval_metrics anls,exact_match (`minicpmv eval --metrics list` lists "
        "all). --keep_best true --metric_for_best_model eval_anls keeps the best checkpoint by one of them.",
    )
    eval_metrics_records: int | None = _flag(None, "Records answered for them, the first ones. Default: all.")
    eval_max_new_tokens: int = _flag(64, "Tokens of the longest answer that is measured.")
    answer_batch_size: int = _flag(
        BATCH_SIZE,
        "Records that a process answers at once, for --eval_metrics, --measure and samples; in halves where they have "
        "no room in the device's memory. --per_device_eval_batch_size is of the loss alone.",
    )
    keep_best: bool = _flag(
        False,
        "Save at each evaluation, and end with the best of these checkpoints instead of the last: by the loss, or by "
        "--metric_for_best_model. --load_best_model_at_end means the same.",
    )
    early_stopping: int = _flag(
        0, "End training after this many evaluations in a row that bring nothing better; implies --keep_best. 0: never."
    )
    measure: int = _flag(
        0,
        "Validation records that the model answers before the first step and again after the last, spread over all: "
        "how well is printed at the end, and both answers are in the report. 0: none. The scripts set 32.",
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _flag(
        "auto", "Precision of the full checkpoint that a run leaves. auto: that of the checkpoint it started from."
    )
    save_rounding: Literal["nearest", "stochastic"] = _flag(
        "nearest",
        "How a full model that was trained in float32 is rounded to that precision. nearest: updates smaller than half "
        "the distance of two numbers vanish. stochastic: each value goes to one of its two neighbours, the nearer the "
        "likelier, which keeps every update on average; it follows from --seed.",
    )
    verify_saved: bool = _flag(
        True,
        "At the end, load what was saved in a fresh process, compare every tensor and the loss on a few records with "
        "the trained model, and write the result to OUTPUT_DIR/verification.json; a difference makes the run fail.",
    )
    report: bool = _flag(
        True,
        "At the end, write OUTPUT_DIR/report.html, a page with curves, answers, data and settings, and OUTPUT_DIR/"
        "loss.png, the curve of the loss. `minicpmv report OUTPUT_DIR` does so at any time.",
    )
    dry_run: bool = _flag(
        False,
        "Check all that can be checked first: flags, data, weights, one optimizer step on the costliest row, memory, "
        "disk and time; then end. Nothing is written.",
    )
    logging_dir: str | None = _flag(None, "Where TensorBoard files go; default: OUTPUT_DIR/runs.")
    vision_cache: str | None = _flag(
        None,
        "Folder in which features of a frozen vision tower are kept, so that it sees each image once, in all epochs "
        "and in all runs that share the folder. true: ~/.cache/minicpmv/vision. Needs --tune_vision false.",
        nargs="?",
        const="true",
    )
    vision_cache_gb: float = _flag(
        50.0,
        "Most gigabytes in that folder. What no run has read for longest goes first; what this run uses stays, and "
        "when only that is left, no more is stored.",
    )
    overwrite_output_dir: bool = _flag(
        False, "Start anew in a directory with checkpoints of an earlier run: delete them."
    )
    allow_other_base: bool = _flag(
        False,
        "Go on from a checkpoint, or from the adapter of --lora_weight_path, with another base model of the same shape "
        "than it was trained on. run.json records it.",
    )
    allow_changed_images: bool = _flag(
        False,
        "Go on from a checkpoint although images are not what they were when the run that wrote it read them. run.json "
        "records it.",
    )
    compilation: dict[str, Any] | None = field(default=None, init=False)
    """No flag: what ``compilation`` makes of ``--torch_compile``; None: nothing is compiled."""

    @property
    def train_sources(self) -> list[Source]:
        """What ``data_path`` says.

        Raises:
            UsageError: A weight cannot work.
        """
        return [parse_source(written, flag="--data_path") for written in self.data_path]

    @property
    def eval_sources(self) -> dict[str, list[Source]]:
        """What ``eval_data_path`` says: the sources of each set by its name, which is empty if there is only one.

        Raises:
            UsageError: There is a weight, or two sets have the same name.
        """
        return parse_validation_sets(self.eval_data_path, flag="--eval_data_path")

    @property
    def split(self) -> SplitSize | None:
        """How much is held out of ``data_path``; None: nothing, as there are other data or none are wanted.

        Raises:
            UsageError: ``validation_split`` is no size.
        """
        if self.eval_data_path or (self.validation_split is None and not self.check_first):
            return None
        return parse_split(self.validation_split)

    @property
    def may_evaluate(self) -> bool:
        """Whether there may be records to measure; how many are held out is known when the data are read."""
        return bool(self.eval_data_path) or self.split is not None


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed command line."""

    run: RunArguments
    training: dict[str, Any]
    """The ``TrainingArguments`` fields that were given, and only those."""
    given: frozenset[str]
    """Names of all flags that were given."""
    notices: tuple[str, ...]
    command: tuple[str, ...]
    """The command line as typed, but for secrets: they are hidden in it."""


_UNSET = object()


_WRONG_KIND = re.compile(r"argument (?P<flag>--\w+)\S*: invalid (?P<kind>\w+) value: (?P<value>.*)", re.DOTALL)
"""How argparse says it."""


class _Parser(HfArgumentParser):
    """Raises instead of printing two hundred flags and exiting."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse would swallow that the output is full
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        wrong = _WRONG_KIND.fullmatch(message)
        if wrong:
            kind = {"int": "a whole number", "float": "a number", "dict": "an object in JSON"}.get(
                wrong["kind"], f"a {wrong['kind']}"
            )
            raise UsageError(f"{wrong['flag']}: found {wrong['value']}, expected {kind}\n  fix: correct it")
        raise UsageError(f"{message}\n  fix: `python -m minicpmv.training --help` lists all flags")


def parse_arguments(arguments: Sequence[str]) -> Request:
    """Read a command line, in today's spelling or that of the 2024 scripts.

    Raises:
        UsageError: A flag is unknown, misspelt, contradicts another, or asks for what cannot be done.
    """
    parser = _Parser(
        [RunArguments, TrainingArguments],  # pyright: ignore[reportArgumentType] # typed for one class only
        prog="python -m minicpmv.training",
        description="Fine-tune a MiniCPM-V model.",
        allow_abbrev=False,
    )
    own = {item.name for item in fields(RunArguments)}
    known = own | {item.name for item in fields(TrainingArguments) if item.init}
    today, notices = modernise(arguments, known=known)
    # Only what is typed replaces a marker, so that "not given" can be told from "given as the default".
    values, unknown = parser.parse_known_args(today, Namespace(**dict.fromkeys(known, _UNSET)))
    if unknown:
        _refuse(unknown, sorted(known))
    refuse_whole_shares(today)
    given = {name: value for name, value in vars(values).items() if value is not _UNSET}
    run = RunArguments(**{name: value for name, value in given.items() if name in own})
    training = {name: value for name, value in given.items() if name not in own}
    _check(run, training, frozenset(given))
    notices += _settle_packing(run, training)
    return Request(run, training, frozenset(given), tuple(notices), tuple(clean_command(arguments)))


def _refuse(unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
    name = unknown[0].partition("=")[0].lstrip("-").replace("-", "_")
    if not unknown[0].startswith("--"):
        raise UsageError(f"found {unknown[0]!r}, expected a flag\n  fix: check the quoting of the flag before it")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    advice = f"did you mean {' or '.join(f'--{match}' for match in near)}?" if near else "remove it"
    raise UsageError(f"--{name}: no such flag\n  fix: {advice} (`python -m minicpmv.training --help` lists all)")


def _check(run: RunArguments, training: dict[str, Any], given: frozenset[str]) -> None:
    run.eval_data_path = [path for path in run.eval_data_path if path]  # the scripts pass an empty variable on
    run.use_lora = run.use_lora or run.q_lora
    missing = [f"--{name}" for name in ("model_name_or_path", "data_path") if not getattr(run, name)]
    missing += [] if training.get("output_dir") else ["--output_dir"]
    if missing:
        raise UsageError(f"found no {', '.join(missing)}, expected each of them\n  fix: add {' '.join(missing)}")
    check_ranges({name: value for name, value in {**vars(run), **training}.items() if name in given})
    check_learning(run, given)
    _check_validation(run, training)
    _check_samples(run, given)
    _check_eval_metrics(run, given)
    _check_policies(run, training)
    if run.use_lora and run.save_rounding != "nearest":
        raise UsageError(
            "--save_rounding stochastic: found beside LoRA, whose tensors are kept as they were trained\n"
            "  fix: remove the flag"
        )


def _check_validation(run: RunArguments, training: dict[str, Any]) -> None:
    """Refuse what could measure nothing, and let all ways to ask for the best checkpoint be one."""
    _ = run.eval_sources, run.split  # their own faults come first
    if run.validation_split is not None and run.eval_data_path and parse_split(run.validation_split) is not None:
        raise UsageError(
            f"--validation_split {run.validation_split} --eval_data_path: found both, expected one: the records to "
            "measure are held out, or they are in a file of their own\n  fix: remove one of them"
        )
    if run.split is not None and not run.check_first:
        raise UsageError(
            f"--validation_split {run.validation_split} --check_first false: found both, expected one: what is held "
            "out depends on all records\n  fix: remove one of them, or put records aside in a file for --eval_data_path"
        )
    asked = [f"--{name}" for name in ("early_stopping", "keep_best") if getattr(run, name)]
    if training.pop("load_best_model_at_end", False):
        asked.append("--load_best_model_at_end")
    if asked and not run.may_evaluate:
        raise UsageError(f"{asked[0]}: found no --eval_data_path\n  fix: add the data to judge by")
    run.keep_best = run.keep_best or bool(run.early_stopping) or "--load_best_model_at_end" in asked


def _check_samples(run: RunArguments, given: frozenset[str]) -> None:
    if "eval_samples" in given and run.eval_samples and not run.may_evaluate:
        raise UsageError("--eval_samples: found no --eval_data_path\n  fix: add the data to ask about")
    if "eval_sample_tokens" in given and not (run.eval_samples and run.may_evaluate):
        missing = "--eval_data_path" if run.eval_samples else "--eval_samples above 0"
        raise UsageError(f"--eval_sample_tokens: found without {missing}, so nothing is asked\n  fix: remove the flag")


def _check_eval_metrics(run: RunArguments, given: frozenset[str]) -> None:
    for name in ("eval_metrics_records", "eval_max_new_tokens"):
        if name in given and run.eval_metrics is None:
            raise UsageError(f"--{name}: found without --eval_metrics, so nothing is measured\n  fix: remove the flag")
    is_asked = run.may_evaluate and (run.eval_metrics or run.eval_samples or run.measure)
    if "answer_batch_size" in given and not is_asked:
        raise UsageError("--answer_batch_size: found no record that is answered\n  fix: remove the flag")
    if run.eval_metrics is None:
        return
    find_metrics(split_names(run.eval_metrics), flag="--eval_metrics")
    if not run.may_evaluate:
        raise UsageError("--eval_metrics: found no --eval_data_path\n  fix: add the data to measure on")


def _settle_packing(run: RunArguments, training: dict[str, Any]) -> list[str]:
    """Decide whether rows are packed where the command line does not say; return notices."""
    notices: list[str] = []
    if run.packing is None:
        for_padded = (("train_sampling_strategy", "group_by_length"), ("dataloader_drop_last", True))
        asked = [f"--{name} {str(value).lower()}" for name, value in for_padded if training.get(name) == value]
        asked += [] if run.check_first else ["--check_first false"]
        run.packing = not asked
        notices += [f"{flag}: records are padded, not packed; without it they are packed" for flag in asked]
    if run.pack_length is None:
        return notices
    if not run.packing:
        raise UsageError("--pack_length: found without packing\n  fix: remove it, or the flag that turns packing off")
    if run.pack_length < run.model_max_length:
        raise UsageError(
            f"--pack_length: found {run.pack_length}, expected at least the {run.model_max_length} tokens that one "
            "record may have (--model_max_length)\n  fix: lengthen the rows, or lower --model_max_length as well"
        )
    return notices


def _check_policies(run: RunArguments, training: dict[str, Any]) -> None:
    needing_lengths = {
        "--packing true": run.packing,
        "--train_sampling_strategy group_by_length": training.get("train_sampling_strategy") == "group_by_length",
        "--on_long_record skip": run.on_long_record == "skip" and run.on_bad_record != "skip",
    }
    for flag, is_given in needing_lengths.items():
        if is_given and not run.check_first:
            raise UsageError(
                f"--check_first false {flag}: found both, expected one: it needs the length of every record before the "
                "first step\n  fix: remove one of them"
            )
    if run.max_bad_share is not None and run.on_bad_record != "skip":
        raise UsageError(
            "--max_bad_share: found without --on_bad_record skip\n  fix: add it, or remove --max_bad_share"
        )
    if run.truncate_answers and run.on_long_record == "error":
        raise UsageError(
            "--truncate_answers true --on_long_record error: found two answers to what becomes of a long record\n"
            "  fix: remove one of them"
        )
