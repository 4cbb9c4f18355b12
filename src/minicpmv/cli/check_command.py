"""Runs ``minicpmv check``: reports all problems and oddities of data files, and counts what they hold."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import model_name, positive_int
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError
from minicpmv.terminal.redaction import clean_settings, clean_text
from minicpmv.terminal.waiting import waiting

if TYPE_CHECKING:  # for annotations only: data modules are imported in the command's body
    from minicpmv.data.records.record import Kind
    from minicpmv.data.sources.survey import Finding, Survey
    from minicpmv.releases.table import Version

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "check"
SUMMARY = "find every problem in data files, and count what they hold"

_MAX_LENGTH = 2048

_EXAMPLES = """exit code: 0 without a problem, 1 with problems, 2 for wrong usage. Notices do not count.

examples:
  minicpmv check train.json
  minicpmv check pairs.json --objective dpo
  minicpmv check run.yaml
  minicpmv check output/demo/train.json --model output/demo/model --model-max-length 2048 --json
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Read data files once, with every image, and report all problems by kind, with examples and fixes; "
        "then count what the files hold; with a model also tokens, slices, packed rows and steps. Nothing is changed. "
        "A file of settings (run.yaml) in place of DATA says data, model, lengths and objective, as `minicpmv train` "
        "reads it; options behind it win.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", nargs="+", help="file of records, as for training")
    parser.add_argument(
        "--model", type=model_name, metavar="PATH", help="directory of the model to be trained; also checks lengths"
    )
    add_image_root(parser)
    parser.add_argument(
        "--model-max-length", type=positive_int, metavar="N", help="most tokens of a record (default: 2048)"
    )
    parser.add_argument(
        "--pack-length", type=positive_int, metavar="N", help="tokens of a packed row (default: --model-max-length)"
    )
    parser.add_argument(
        "--max-slice-nums", type=positive_int, metavar="N", help="most tiles of an image (default: the checkpoint's)"
    )
    parser.add_argument(
        "--objective",
        choices=["sft", "dpo"],
        help="what is to be learned, as in training: sft takes records without worse or judged answers, dpo those with "
        "(default: any, but of one kind in a file)",
    )
    parser.add_argument(
        "--preference-loss",
        metavar="LOSSES",
        help="with --objective dpo, as in training: whether pairs or judged answers are compared (default: pairs)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help="packed rows in one optimizer step, on all GPUs; without packing, records (default: 1)",
    )
    parser.add_argument(
        "--examples", type=_count, metavar="N", help="examples of each kind (default: 3; with --json, all)"
    )
    parser.add_argument(
        "--headers-only",
        action="store_true",
        help="check only header and end of image files, as a run does at its start, instead of decoding all of them",
    )
    parser.add_argument(
        "--decode-films",
        action="store_true",
        help="decode every film to its end, which takes long, instead of reading its header",
    )
    parser.add_argument("--no-images", action="store_true", help="do not open image files, nor films")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (keys: docs/data.md)")
    return parser


def _count(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


def run(arguments: Sequence[str]) -> int:
    """Check, print, and return an exit code that says whether there are problems."""
    parser = _build_parser()
    options = parser.parse_intermixed_args(_open_settings(parser, arguments))
    for name in ("model_max_length", "pack_length", "max_slice_nums", "batch_size"):
        if getattr(options, name) and not options.model:
            flag = f"--{name.replace('_', '-')}"
            parser.error(
                f"{flag}: found without --model, expected both: the model counts the tokens\n"
                f"  fix: add --model, or remove {flag}"
            )
    max_length = options.model_max_length = options.model_max_length or _MAX_LENGTH
    if options.pack_length and options.pack_length < max_length:
        parser.error(
            f"--pack-length: found {options.pack_length}, expected at least the {max_length} tokens that one record "
            "may have (--model-max-length)\n  fix: raise it, or lower --model-max-length as well"
        )
    if options.model and options.no_images:
        parser.error(
            "--model --no-images: found both, expected one: image tokens are counted by image sizes\n"
            "  fix: remove one of them"
        )
    return _check(options)


def _open_settings(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return the command line with the data of a file of settings in its place, and make its settings the defaults."""
    from minicpmv.training.flags.words.settings_file import is_settings_file, with_settings_file

    if not arguments or not is_settings_file(arguments[0]):
        return list(arguments)
    from minicpmv.training.flags.arguments import parse_arguments

    run = parse_arguments(with_settings_file([arguments[0], "--output_dir", "none"])).run
    names = ["image_root", "objective", "preference_loss"]
    if "--no-images" not in [word.replace("_", "-") for word in arguments]:
        names += ["model_max_length", "pack_length", "max_slice_nums"]
        parser.set_defaults(model=run.model_name_or_path)
    parser.set_defaults(**{name: getattr(run, name) for name in names})
    validation = [source for sources in run.eval_sources.values() for source in sources]
    return [*(source.path for source in (*run.train_sources, *validation)), *arguments[1:]]


def _kind(options: argparse.Namespace) -> Kind | None:
    """Return what a run with this objective makes of records.

    Raises:
        UsageError: Losses that are none, or without the objective that reads them.
    """
    from minicpmv.training.flags.declared.preferences import PreferenceArguments

    if options.preference_loss is not None and options.objective != "dpo":
        raise UsageError(
            "--preference-loss: found without --objective dpo, expected both\n  fix: add it, or remove the flag"
        )
    if options.objective is None:
        return None
    return PreferenceArguments(objective=options.objective, preference_loss=options.preference_loss).kind


def _check(options: argparse.Namespace) -> int:
    from minicpmv.data.sources.survey import Survey
    from minicpmv.data.sources.survey_report import SCHEMA, findings_as_json, statistics_lines, verdict

    survey = Survey(options.data, image_root=options.image_root, version=_version(options.model), kind=_kind(options))
    survey.read_texts()
    shown = _print_new(survey, 0, options)
    if not options.no_images:
        survey.read_images(decode=not options.headers_only, on_progress=partial(_progress, things="images"))
        shown = _print_new(survey, shown, options)
        survey.read_films(decode=options.decode_films, on_progress=partial(_progress, things="films"))
        shown = _print_new(survey, shown, options)
    lengths = _measure(survey, options) if options.model else None
    survey.judge_pairs()
    _print_new(survey, shown, options)
    statistics, findings = survey.statistics(), survey.findings
    if options.json:
        report = {
            "schema": SCHEMA,
            "data": options.data,
            "images_checked": not options.no_images,
            "problems": findings_as_json(findings, "problem", options.examples),
            "notices": findings_as_json(findings, "notice", options.examples),
            "statistics": asdict(statistics),
            "model": lengths,
        }
        print(json.dumps(clean_settings(report)))
    else:
        _print_groups(findings, "notice", options)
        print("\n".join(statistics_lines(statistics, lengths)))
        print(f"\n{verdict(findings, statistics)}")
    return int(any(finding.problem.severity == "problem" for finding in findings))


def _print_new(survey: Survey, shown: int, options: argparse.Namespace) -> int:
    """Print the problems that the last step found, so that they are seen even if the next step is interrupted."""
    if not options.json:
        _print_groups(survey.findings[shown:], "problem", options)
        sys.stdout.flush()
    return len(survey.findings)


def _print_groups(findings: Sequence[Finding], severity: Any, options: argparse.Namespace) -> None:
    from minicpmv.data.sources.survey_report import group_findings, group_lines

    groups = group_findings(findings, severity)
    if groups and severity == "notice":
        print("Notices: these records are trained on as they are\n")
    for line in group_lines(groups, num_examples=3 if options.examples is None else options.examples):
        print(clean_text(line))


def _progress(done: int, total: int, *, things: str) -> None:
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} {things}", end=end, file=sys.stderr, flush=True)


def _version(model: str | None) -> Version | None:
    """Find the model's version, without torch if its own config.json states it."""
    if model is None:
        return None
    from minicpmv.releases.table import detect_version, is_model_type

    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and is_model_type(config.get("model_type")):
            return detect_version(config)
    except (OSError, ValueError):
        pass  # an adapter, a name on the hub, or a fault that the next lines report
    from minicpmv.inference.loading import find_version

    return find_version(model)


def _measure(survey: Survey, options: argparse.Namespace) -> dict[str, Any]:
    """Count tokens, and add the records that are too long to the survey."""
    sound = survey.sound_records()
    with waiting(f"loading the tokenizer of {options.model}, then counting tokens"):
        from transformers.utils import logging

        from minicpmv.data.samples.lengths import measure_lengths
        from minicpmv.inference.loading import load_processor

        logging.set_verbosity_error()
        processor = load_processor(options.model)
        lengths, problems = measure_lengths(
            sound,
            processor,
            max_length=options.model_max_length,
            max_slice_nums=options.max_slice_nums,
            batch_size=options.batch_size or 1,
            pack_length=options.pack_length,
            on_progress=partial(_progress, things="records, counting tokens"),
        )
    for position, problem in problems:
        survey.add(int(sound.positions[position]), [problem])
    tokenizer = processor.tokenizer
    survey.measure_pairs(lambda text: len(tokenizer.encode(text, add_special_tokens=False)))
    assert survey.version is not None
    return {"name": survey.version.model, "model_max_length": options.model_max_length, **asdict(lengths)}
