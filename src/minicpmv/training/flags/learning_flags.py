"""The flags that say what learns: the model's parts, LoRA, and each part's learning rate and weight decay.

Here they are declared, and refused where they contradict each other by themselves. What needs the model's names,
such as which modules a regular expression hits, is for ``learning``.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any, Literal

from minicpmv.errors import UsageError

__all__ = ["BESIDE_LORA", "DEFAULT_LORA_TARGET", "RATED", "LearningArguments", "check_learning", "flag", "switch"]

DEFAULT_LORA_TARGET = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
"""The language model's attention, as in the official recipe."""

RATED = ("vision", "resampler", "embeddings", "lora")
"""What can have a learning rate and a weight decay of its own: ``--vision_lr``, ``--vision_weight_decay``, ..."""

BESIDE_LORA = {
    "tune_embeddings": "embed_tokens",
    "tune_resampler": "resampler",
    "tune_vision": "vpm",
    "tune_output_head": "lm_head",
}
"""Flag -> the module that PEFT trains fully beside LoRA for it."""

_CHANGES_BASE = r"pissa(_niter_[1-9]\d*)?|olora"


def flag(default: Any, text: str, **more: Any) -> Any:
    """A field whose help text is ``text``."""
    return field(default=default, metadata={"help": text, **more})


def switch(text: str) -> Any:
    """A switch that may also be left open, and may be given without a value."""
    return flag(None, text, nargs="?", const=True)


@dataclass(kw_only=True)
class LearningArguments:
    """What learns. A switch that is None is settled from the others, once the model's modules are known."""

    tune_llm: bool | None = switch(
        "Train all of the language model. Default: true, with LoRA false. Embeddings and head have flags of their own."
    )
    tune_vision: bool | None = switch("Train all of the vision tower. Default: true, unless LoRA is put on it.")
    tune_resampler: bool | None = switch("Train all of the resampler. Default: true, unless LoRA is put on it.")
    tune_embeddings: bool | None = switch(
        "Train the token embeddings. Default: with --tune_llm; beside LoRA true, as in the official recipe."
    )
    tune_output_head: bool | None = switch(
        "Train the projection onto the vocabulary. Default: with --tune_llm; beside LoRA false."
    )
    vision_lr: float | None = flag(None, "Learning rate of the vision tower. Default: --learning_rate.")
    resampler_lr: float | None = flag(None, "Learning rate of the resampler. Default: --learning_rate.")
    embeddings_lr: float | None = flag(
        None, "Learning rate of token embeddings and output head. Default: --learning_rate."
    )
    lora_lr: float | None = flag(
        None,
        "Learning rate of LoRA matrices in parts without a rate of their own. Default: --learning_rate.",
    )
    vision_weight_decay: float | None = flag(None, "Weight decay of the vision tower. Default: --weight_decay.")
    resampler_weight_decay: float | None = flag(None, "Weight decay of the resampler. Default: --weight_decay.")
    embeddings_weight_decay: float | None = flag(
        None, "Weight decay of token embeddings and output head. Default: --weight_decay."
    )
    lora_weight_decay: float | None = flag(None, "Weight decay of LoRA matrices. Default: --weight_decay.")
    use_lora: bool = flag(False, "Train through LoRA, on the language model unless --lora_target_modules says more.")
    q_lora: bool = flag(False, "Keep the frozen language model in 4 bits (needs bitsandbytes). Implies --use_lora.")
    lora_r: int = flag(64, "Rank of the LoRA matrices.")
    lora_alpha: int = flag(64, "LoRA scale; the update is multiplied by alpha / r.")
    lora_dropout: float = flag(0.05, "Dropout on the input of the LoRA matrices; 0 after pissa and olora.")
    lora_target_modules: str = flag(
        DEFAULT_LORA_TARGET,
        "Modules that get LoRA: a regular expression over full names; or words separated by commas, each one of "
        "attention, all-linear (both of the language model), vision-attention, vision-all-linear, resampler, or the "
        "last name of modules inside the language model, such as q_proj.",
    )
    lora_modules_to_save: str | None = flag(
        None,
        "Comma-separated modules that are trained fully and saved beside the LoRA matrices; 'none' for none. Says the "
        "same as the --tune_... switches, by module name. Each costs its own size again, with gradients and optimizer "
        "state on top.",
    )
    lora_preset: Literal["official", "adapters_only"] | None = flag(
        None,
        "What is trained fully beside LoRA where no other flag says so. official: vision tower, resampler and token "
        "embeddings, as the official script does; adapters_only: nothing, as other tools do. Default: official.",
    )
    lora_weight_path: str | None = flag(None, "An adapter directory to go on from, instead of new LoRA matrices.")
    use_rslora: bool = flag(False, "Scale LoRA by alpha / sqrt(r), which keeps high ranks learning (rsLoRA).")
    use_dora: bool = flag(False, "Learn each weight's magnitude apart from its direction (DoRA). Slower.")
    init_lora_weights: str = flag(
        "true",
        "How LoRA matrices start: true (as PEFT does, adding nothing), gaussian, pissa or pissa_niter_N (largest "
        "singular directions, exactly or quickly in N iterations), olora (orthonormal). What is saved is plain LoRA "
        "for the unchanged base; after pissa and olora of twice the rank.",
    )
    lora_bias: Literal["none", "all", "lora_only"] = flag("none", "Which biases are trained as well.")
    lora_layers_to_transform: list[int] | None = field(
        default=None, metadata={"help": "Only these layers get LoRA, counted from 0."}
    )
    lora_layers_pattern: str | None = flag(None, "Name of the list of layers that --lora_layers_to_transform counts.")
    lora_layer_replication: str | None = flag(None, "Not supported by PEFT for vision-language models; refused.")
    llm_activation_checkpointing: bool | None = switch(
        "Compute the language model's activations again in the backward pass instead of keeping them: less memory, "
        "more time. Default: as --activation_checkpointing says for all."
    )
    vision_activation_checkpointing: bool | None = switch(
        "The same for the vision tower. Default: as --activation_checkpointing says for all."
    )

    @property
    def changes_base(self) -> bool:
        """Whether LoRA starts from a part of the base's weights, which are reduced by it while training."""
        return re.fullmatch(_CHANGES_BASE, self.init_lora_weights) is not None

    @property
    def listed_beside_lora(self) -> list[str] | None:
        """What ``--lora_modules_to_save`` names; None if it was not given."""
        if self.lora_modules_to_save is None:
            return None
        names = [name for name in re.split(r"[\s,]+", self.lora_modules_to_save) if name]
        return [] if names == ["none"] else names


def check_learning(run: LearningArguments, given: Set[str]) -> None:
    """Refuse what cannot be meant.

    Args:
        run: The flags; ``q_lora`` has set ``use_lora``.
        given: Names of all flags that were given.

    Raises:
        UsageError: Flags contradict each other, or one could have no effect.
    """
    if run.use_lora and run.tune_llm:
        raise UsageError(
            "--tune_llm true --use_lora true: found both, expected one: LoRA keeps the language model frozen\n"
            "  fix: remove --tune_llm, or --use_lora to train it as a whole"
        )
    if not run.use_lora:
        of_lora = {"init_lora_weights", "use_dora", "use_rslora"} | {name for name in given if name.startswith("lora_")}
        # The official full-training script passes no such flag; with values they would be ignored.
        idle = sorted(f"--{name}" for name in given & of_lora if getattr(run, name))
        if idle:
            raise UsageError(f"{', '.join(idle)}: found without --use_lora true\n  fix: add it, or remove these flags")
    if run.lora_layers_pattern and not run.lora_layers_to_transform:
        raise UsageError(
            "--lora_layers_pattern: found without --lora_layers_to_transform\n  fix: add it, or remove this flag"
        )
    if run.lora_layer_replication:
        raise UsageError(
            f"--lora_layer_replication: found {run.lora_layer_replication!r}; PEFT replicates layers only in bare "
            "language models, not inside a vision-language model\n  fix: remove the flag"
        )
    _check_start(run, given)
    _check_listed(run)


def _check_start(run: LearningArguments, given: Set[str]) -> None:
    run.init_lora_weights = run.init_lora_weights.lower()
    if run.init_lora_weights not in ("true", "gaussian") and not run.changes_base:
        raise UsageError(
            f"--init_lora_weights: found {run.init_lora_weights!r}, expected true, gaussian, pissa, pissa_niter_N or "
            "olora\n  fix: correct it"
        )
    if run.changes_base and run.q_lora:
        raise UsageError(
            f"--init_lora_weights {run.init_lora_weights} --q_lora true: found both, expected one: what is taken out "
            "of a weight cannot be taken out of its 4 bits\n  fix: remove one of them"
        )
    if run.changes_base and run.lora_weight_path:
        raise UsageError(
            f"--init_lora_weights {run.init_lora_weights} --lora_weight_path: found both, expected one: the adapter's "
            "matrices have started long ago\n  fix: remove one of them"
        )
    if run.changes_base:
        if run.lora_dropout and "lora_dropout" in given:
            raise UsageError(
                f"--lora_dropout {run.lora_dropout:g} --init_lora_weights {run.init_lora_weights}: found both, "
                "expected no dropout: it would drop the largest part of the base's own weights\n"
                "  fix: remove --lora_dropout"
            )
        run.lora_dropout = 0.0


def _check_listed(run: LearningArguments) -> None:
    listed = run.listed_beside_lora
    if run.lora_preset == "adapters_only":
        others = [f"--{name} true" for name in BESIDE_LORA if getattr(run, name)]
        others += [f"--lora_modules_to_save {run.lora_modules_to_save}"] if listed else []
        if others:
            raise UsageError(
                f"--lora_preset adapters_only: found {', '.join(others)} with it, which trains more than adapters\n"
                "  fix: remove it (LORA_PRESET=adapters_only of the script does so), or --lora_preset"
            )
    if run.lora_preset == "official" and listed == []:
        raise UsageError(
            "--lora_preset official --lora_modules_to_save none: found both, expected one: the official recipe trains "
            "modules beside LoRA\n  fix: remove one of them, or use --lora_preset adapters_only"
        )
    for name, module in BESIDE_LORA.items():
        wish = getattr(run, name)
        if listed is not None and wish is not None and wish != (module in listed):
            raise UsageError(
                f"--{name} {str(wish).lower()} --lora_modules_to_save {run.lora_modules_to_save}: found two answers to "
                f"whether {module} is trained\n  fix: remove --{name}, or list {module} accordingly"
            )
