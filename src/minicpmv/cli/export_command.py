"""Runs ``minicpmv export``: writes a model as files of another engine, and verifies them by reading them back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minicpmv.cli.model_options import add_base_option, model_name
from minicpmv.cli.parser import CommandParser
from minicpmv.export.gguf.type_names import LLAMA_QUANTIZE_TYPES, OWN_TYPES, VISION_TYPES
from minicpmv.terminal.waiting import waiting

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "export"
SUMMARY = "write a model as GGUF files for llama.cpp and tools built on it"

_EXAMPLES = """examples:
  minicpmv export output/lora --output output/gguf
  minicpmv export output/full_4_6 --output output/gguf --llama-cpp llama.cpp
  minicpmv export output/full --output output/gguf --type q4_k_m --llama-quantize llama.cpp/build/bin/llama-quantize
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Write a model of version 2.5, 2.6, 4, 4.5, 4.6 or 4.7 as two GGUF files: the language model, "
        "and vision tower with resampler or merger (mmproj). Those of 4.6 and later are written by llama.cpp's own "
        "converter, which --llama-cpp names. Both files are then read back: every tensor is compared with the model's, "
        "and so are the logits of a question about a picture.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=model_name,
        help="directory of a fully tuned model, a base or an adapter, which is merged with its base first; or a hub "
        "name",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the files")
    parser.add_argument(
        "--type",
        choices=("auto", *OWN_TYPES, *LLAMA_QUANTIZE_TYPES),
        default="auto",
        help="number format of the language model (default: auto, the model's own). Those after q4_0 are written by "
        "llama.cpp's llama-quantize; of 4.6 and later, all after bf16 but q8_0",
    )
    parser.add_argument(
        "--vision-type",
        choices=("auto", *VISION_TYPES),
        default="auto",
        help="number format of tower and resampler (default: auto, f16, or f32 with an f32 language model)",
    )
    parser.add_argument(
        "--llama-quantize",
        metavar="FILE",
        help="llama.cpp's tool, for types that need it (default: the one on PATH)",
    )
    parser.add_argument(
        "--llama-cpp",
        metavar="DIR",
        help="checkout of llama.cpp, whose convert_hf_to_gguf.py writes the files of 4.6 and later",
    )
    parser.add_argument(
        "--no-logits", action="store_true", help="compare only tensors; logits need the whole model in memory"
    )
    parser.add_argument("--device", help="where logits are computed: cpu, cuda, ... (default: the first GPU, else CPU)")
    add_base_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace GGUF files of the same names")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Export, and print what was written, how far it is from the model, and where the engine differs."""
    options = _build_parser().parse_intermixed_args(arguments)
    with waiting(f"exporting {options.model}, and reading it back"):
        from transformers.utils import logging

        from minicpmv.export.gguf.export import export_gguf

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        done = export_gguf(
            options.model,
            Path(options.output),
            kind=options.type,
            vision_kind=options.vision_type,
            llama_quantize=options.llama_quantize,
            llama_cpp=options.llama_cpp,
            run=not options.no_logits,
            device=options.device,
            allow_other_base=options.allow_other_base,
            overwrite=options.overwrite,
        )
    if done.merged is not None:
        print(f"First merged into {done.merged.base}")
        for agreement in done.merged.agreements:
            print(f"  in {agreement.dtype}, {agreement}")
    for file in (done.model, done.vision):
        print(f"Wrote {file} ({file.stat().st_size / 2**20:,.1f} MiB)")
    errors = ", ".join(f"{kind.name} {error:.2g}" for kind, error in sorted(done.errors.items()))
    print(f"Read back: largest error of a tensor, relative to its size: {errors}")
    if done.agreement is not None:
        print(
            f"Run again: logits differ by at most {done.agreement.difference:.2g} of the largest; the likeliest token "
            f"is the same at {done.agreement.same_choice:.0%} of the positions"
        )
    for notice in done.differences:
        print(f"notice: {notice} (docs/deploy/llama_cpp.md)", file=sys.stderr)
    return 0
