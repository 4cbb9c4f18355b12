"""The ways to train that are compared, and the command of each.

All train the same weights on the same records, with the same optimizer, rate, LoRA and number of records in a step.
Peers take records in the order of the file; a packed row takes others of the same epoch, which has two steps. What is
left to each is what costs time and memory: batching, recomputation, precision of the weights, the code of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.inputs import KINDS, RECORDS_OF_A_STEP, ROW, STEPS, Places

__all__ = ["LEFT_OUT", "METHODS", "WAYS", "Run", "Way", "environment_name", "plan", "words_of"]

METHODS = ("lora", "full")
_RATE = "5e-4"
_LORA = {"r": "64", "alpha": "64", "dropout": "0.05"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One command to compare."""

    peer: str
    """Whose command it is; ``ours`` is this package's."""
    label: str
    kinds: tuple[str, ...]
    batch: int = RECORDS_OF_A_STEP
    """Records of a micro-batch; a packed row holds those of one step."""
    recomputes: bool


_SWIFT = "ms-swift 4.6.0"
_TRL = "TRL 1.16.0"
_FACTORY = "LLaMA-Factory 0.9.5"
_BATCH_1 = "batch 1, recomputed"
_BATCH_4 = "batch 4, nothing recomputed"

WAYS = {
    "ours": Way(peer="ours", label="this package: nothing recomputed", kinds=("2.6", "4.6"), recomputes=False),
    "ours_recomputed": Way(
        peer="ours", label="this package, as it comes: recomputed", kinds=("2.6", "4.6"), recomputes=True
    ),
    "ms_swift": Way(
        peer="ms_swift", label=f"{_SWIFT}, as it comes: {_BATCH_1}", kinds=("2.6", "4.6"), batch=1, recomputes=True
    ),
    "ms_swift_best": Way(peer="ms_swift", label=f"{_SWIFT}: {_BATCH_4}", kinds=("2.6", "4.6"), recomputes=False),
    "llama_factory": Way(
        peer="llama_factory",
        label=f"{_FACTORY}, as it comes: {_BATCH_1}",
        kinds=("2.6",),
        batch=1,
        recomputes=True,
    ),
    "llama_factory_best": Way(peer="llama_factory", label=f"{_FACTORY}: {_BATCH_4}", kinds=("2.6",), recomputes=False),
    "trl": Way(peer="trl", label=f"{_TRL}, as it comes: batch 4, recomputed", kinds=("4.6",), recomputes=True),
    "trl_best": Way(peer="trl", label=f"{_TRL}: {_BATCH_4}", kinds=("4.6",), recomputes=False),
}

LEFT_OUT = {
    ("2.6", "lora", "llama_factory"): (
        "LLaMA-Factory's recomputation stops LoRA of 2.6: the released code writes image features into embeddings in "
        "place, which then are a leaf that needs a gradient"
    ),
}
"""Kind, method and way -> why it does not run."""


@dataclass(frozen=True)
class Run:
    """One training to measure."""

    round: int
    kind: str
    method: str
    way: str


def plan(kinds: Sequence[str], methods: Sequence[str], ways: Sequence[str], *, rounds: int) -> Iterator[Run]:
    """Yield all trainings: in each round and for each kind and method, all ways in turn.

    Args:
        kinds: Of models.
        methods: Of training.
        ways: Names of those that are compared.
        rounds: How often.
    """
    for number in range(1, rounds + 1):
        for kind in kinds:
            for method in methods:
                for way in ways:
                    if kind in WAYS[way].kinds and (kind, method, way) not in LEFT_OUT:
                        yield Run(number, kind, method, way)


def environment_name(peer: str, kind: str) -> str:
    """Return the name of the pins with which a peer runs a kind: 2.6's code needs an older transformers than 4.6."""
    return f"{peer}_2_6" if (peer, kind) == ("ms_swift", "2.6") else peer


def words_of(run: Run, places: Places, output: Path, *, device: str, precision: str) -> list[str]:
    """Return the module that trains, and its arguments.

    Args:
        run: What to train.
        places: Its inputs.
        output: A folder for what it writes.
        device: ``cpu`` or ``cuda``.
        precision: ``bf16`` or ``fp32``.
    """
    way = WAYS[run.way]
    command = {"ours": _ours, "ms_swift": _swift, "llama_factory": _factory, "trl": _trl}[way.peer]
    common = [*_common(way, output), "--bf16", _word(precision == "bf16")]
    if device == "cpu":
        common += ["--use_cpu", "true"]
    return command(way, run, places, common)


def _common(way: Way, output: Path) -> list[str]:
    """Return arguments that all understand, as all read transformers' ``TrainingArguments``."""
    words = f"--max_steps {STEPS} --learning_rate {_RATE} --lr_scheduler_type constant --warmup_steps 0"
    words += " --weight_decay 0 --adam_beta2 0.95 --max_grad_norm 1 --seed 42 --logging_steps 1 --save_strategy no"
    words += " --report_to none"
    if way.peer != "ours":
        words += f" --per_device_train_batch_size {way.batch}"
        words += f" --gradient_accumulation_steps {RECORDS_OF_A_STEP // way.batch}"
    return ["--output_dir", str(output), *words.split()]


def _ours(way: Way, run: Run, places: Places, common: list[str]) -> list[str]:
    words = f"--pack_length {ROW} --model_max_length {ROW} --per_device_train_batch_size 1"
    words += " --gradient_accumulation_steps 1 --train_sampling_strategy sequential --validation_split 0 --measure 0"
    words += (
        f" --data_cache false --verify_saved false --report false --activation_checkpointing {_word(way.recomputes)}"
    )
    lora = f"--use_lora true --lora_r {_LORA['r']} --lora_alpha {_LORA['alpha']} --lora_dropout {_LORA['dropout']}"
    adapter = [*lora.split(), "--lora_target_modules", KINDS[run.kind].lora_targets] if run.method == "lora" else []
    places_of = ["--model_name_or_path", str(places.model), "--data_path", str(places.ours)]
    return ["minicpmv.training", *places_of, *common, *words.split(), *adapter]


def _swift(way: Way, run: Run, places: Places, common: list[str]) -> list[str]:
    kind = KINDS[run.kind]
    words = f"--model_type {kind.swift_type} --use_hf true --torch_dtype {_dtype(common)} --max_length {ROW}"
    words += " --dataset_shuffle false --train_dataloader_shuffle false --split_dataset_ratio 0"
    words += f" --freeze_vit false --freeze_aligner false --gradient_checkpointing {_word(way.recomputes)}"
    words += f" --vit_gradient_checkpointing {_word(way.recomputes)}"
    lora = ["--tuner_type", "full"]
    if run.method == "lora":
        lora = ["--tuner_type", "lora", "--lora_rank", _LORA["r"], "--lora_alpha", _LORA["alpha"]]
        lora += ["--lora_dropout", _LORA["dropout"], "--target_regex", kind.lora_targets]
        lora += ["--modules_to_save", *kind.in_full]
    places_of = ["--model", str(places.model), "--dataset", str(places.swift)]
    return ["swift.cli.sft", *places_of, *common, *words.split(), *lora]


def _factory(way: Way, run: Run, places: Places, common: list[str]) -> list[str]:
    kind = KINDS[run.kind]
    words = f"--stage sft --do_train true --template minicpm_v --dataset records --cutoff_len {ROW}"
    words += " --disable_shuffling true --trust_remote_code true --preprocessing_num_workers 1 --overwrite_cache true"
    frozen = _word(run.method == "lora")  # with LoRA this only says that none of it gets LoRA; it learns in full
    words += f" --freeze_vision_tower {frozen} --freeze_multi_modal_projector {frozen}"
    words += " --image_max_pixels 100000000"  # by default it makes pictures smaller than 2.6 takes them
    words += f" --disable_gradient_checkpointing {_word(not way.recomputes)} --finetuning_type {run.method}"
    if run.method == "lora":
        words += f" --lora_rank {_LORA['r']} --lora_alpha {_LORA['alpha']} --lora_dropout {_LORA['dropout']}"
        words += f" --lora_target q_proj,k_proj,v_proj,o_proj --additional_target {','.join(kind.in_full)}"
    places_of = ["--model_name_or_path", str(places.model), "--dataset_dir", str(places.factory)]
    return ["llamafactory.launcher", *places_of, *common, *words.split()]


def _trl(way: Way, run: Run, places: Places, common: list[str]) -> list[str]:
    kind = KINDS[run.kind]
    words = f"--max_length {ROW} --train_sampling_strategy sequential --dtype {_dtype(common)}"
    words += f" --gradient_checkpointing {_word(way.recomputes)}"
    lora: list[str] = []
    if run.method == "lora":
        lora = ["--use_peft", "--lora_r", _LORA["r"], "--lora_alpha", _LORA["alpha"], "--lora_dropout"]
        lora += [_LORA["dropout"], "--lora_target_modules", kind.lora_targets, "--lora_modules_to_save", *kind.in_full]
    places_of = ["--model_name_or_path", str(places.model), "--dataset_name", str(places.trl)]
    return ["trl.scripts.sft", *places_of, *common, *words.split(), *lora]


def _dtype(common: list[str]) -> str:
    """Return the dtype in which peers are told to load weights: that of the computation, as their examples do."""
    return "bfloat16" if common[common.index("--bf16") + 1] == "true" else "float32"


def _word(value: bool) -> str:
    return "true" if value else "false"
