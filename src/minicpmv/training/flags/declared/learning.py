"""Declares what learns, LoRA, and what is computed again to save memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from minicpmv.releases.row import DEFAULT_LORA_TARGET
from minicpmv.training.flags.fields import COUNT_OR_NONE, NOT_NEGATIVE, PART, Range, declare, switch

__all__ = ["BESIDE_LORA", "RATED", "LearningArguments"]

RATED = ("vision", "resampler", "embeddings", "lora")
"""What can have a learning rate and a weight decay of its own: ``--vision_lr``, ``--vision_weight_decay``, ..."""

BESIDE_LORA = ("tune_embeddings", "tune_resampler", "tune_vision", "tune_output_head")
"""Flags of what can be trained fully beside LoRA."""

_CHANGES_BASE = r"pissa(_niter_[1-9]\d*)?|olora"
_OWN_RATE = Range(without_least=True, instead="freeze the part instead")
_MOST_RANK = 65_536
"""Wider than any layer; matrices of a higher rank would fill any memory before anything is reported."""


@dataclass(frozen=True, kw_only=True)
class LearningArguments:
    """What learns. A switch that is None is resolved from the others, once the model's modules are known."""

    tune_llm: bool | None = switch(
        "Train the whole language model. Default: true; false with LoRA. Embeddings and head have flags of their own.",
        group="What learns",
        resume="same",
    )
    tune_vision: bool | None = switch(
        "Train the whole vision tower. Default: true, unless it gets LoRA.", group="What learns", resume="same"
    )
    tune_resampler: bool | None = switch(
        "Train the whole resampler. Default: true, unless it gets LoRA.", group="What learns", resume="same"
    )
    tune_embeddings: bool | None = switch(
        "Train the token embeddings. Default: as --tune_llm; with LoRA true, as in the official recipe, unless the "
        "output head has the same weights.",
        group="What learns",
        resume="same",
    )
    tune_output_head: bool | None = switch(
        "Train the projection onto the vocabulary. Default: as --tune_llm; with LoRA false.",
        group="What learns",
        resume="same",
    )
    vision_lr: float | None = declare(
        None,
        "Learning rate of the vision tower. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    resampler_lr: float | None = declare(
        None,
        "Learning rate of the resampler. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    embeddings_lr: float | None = declare(
        None,
        "Learning rate of token embeddings and output head. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    vision_weight_decay: float | None = declare(
        None,
        "Weight decay of the vision tower. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    resampler_weight_decay: float | None = declare(
        None,
        "Weight decay of the resampler. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    embeddings_weight_decay: float | None = declare(
        None,
        "Weight decay of token embeddings and output head. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    use_lora: bool = declare(
        False,
        "Train LoRA matrices, on the language model unless --lora_target_modules names other modules.",
        group="LoRA",
        resume="same",
    )
    q_lora: bool = declare(
        False,
        "Keep the frozen language model quantized to 4 bits (needs bitsandbytes). Implies --use_lora.",
        group="LoRA",
        resume="same",
    )
    lora_r: int = declare(
        64, "Rank of the LoRA matrices.", group="LoRA", resume="same", range=Range(least=1, most=_MOST_RANK)
    )
    lora_alpha: int = declare(
        64, "LoRA scale; the update is multiplied by alpha / r.", group="LoRA", resume="same", range=COUNT_OR_NONE
    )
    lora_dropout: float = declare(
        0.05,
        "Dropout on the input of the LoRA matrices. Unless given: 0 with pissa, olora and --objective dpo, and the "
        "adapter's own with --lora_weight_path.",
        group="LoRA",
        resume="same",
        range=PART,
    )
    lora_lr: float | None = declare(
        None,
        "Learning rate of LoRA matrices in parts without a rate of their own. Default: --learning_rate.",
        group="LoRA",
        resume="same",
        range=_OWN_RATE,
    )
    lora_weight_decay: float | None = declare(
        None,
        "Weight decay of LoRA matrices. Default: --weight_decay.",
        group="LoRA",
        resume="same",
        range=NOT_NEGATIVE,
    )
    lora_target_modules: str = declare(
        DEFAULT_LORA_TARGET,
        "Modules that get LoRA: a regular expression over full names, or words separated by commas. A word is "
        "attention or all-linear (both of the language model), vision-attention, vision-all-linear, resampler, "
        "experts (4.7-A3B), or the last name of modules inside the language model, such as q_proj.",
        group="LoRA",
        resume="same",
    )
    lora_modules_to_save: str | None = declare(
        None,
        "Modules that are fully trained and saved with the LoRA matrices, separated by commas; 'none' for none. The "
        "same choice as the --tune_... switches, by module name. Each costs its own size again, plus gradients and "
        "optimizer state.",
        group="LoRA",
        resume="same",
    )
    lora_preset: Literal["official", "adapters_only"] | None = declare(
        None,
        "What is fully trained in addition to LoRA unless another flag decides. official: vision tower, resampler and "
        "token embeddings, as in the official script. adapters_only: nothing, as in other tools. Default: official; "
        "adapters_only with --objective dpo.",
        group="LoRA",
        resume="free",  # every part has a value of its own
    )
    lora_weight_path: str | None = declare(
        None,
        "Adapter directory to continue from, instead of new LoRA matrices.",
        group="LoRA",
        resume="free",  # decides the beginning alone
    )
    use_rslora: bool = declare(
        False, "Scale LoRA by alpha / sqrt(r), which keeps high ranks learning (rsLoRA).", group="LoRA", resume="same"
    )
    use_dora: bool = declare(
        False,
        "Learn the magnitude of each weight apart from its direction (DoRA). Slower.",
        group="LoRA",
        resume="same",
    )
    init_lora_weights: str = declare(
        "true",
        "How LoRA matrices are initialised: true (PEFT's default, which adds nothing), gaussian, pissa or "
        "pissa_niter_N (largest singular directions, exact or approximated in N iterations), olora (orthonormal). "
        "The saved adapter is plain LoRA for the unchanged base; after pissa and olora it has twice the rank.",
        group="LoRA",
        resume="same",
    )
    lora_bias: Literal["none", "all", "lora_only"] = declare(
        "none", "Which biases are trained as well.", group="LoRA", resume="same"
    )
    lora_layers_to_transform: list[int] | None = declare(
        None, "Put LoRA on these layers only, counted from 0.", group="LoRA", resume="same"
    )
    lora_layers_pattern: str | None = declare(
        None, "Name of the list of layers that --lora_layers_to_transform counts.", group="LoRA", resume="same"
    )
    llm_activation_checkpointing: bool | Literal["auto"] | None = switch(
        "Recompute the language model's activations in the backward pass instead of storing them: less memory, more "
        "time. auto: in as few layers as the free memory allows. Default: as --activation_checkpointing.",
        group="Precision and memory",
        resume="free",
    )
    vision_activation_checkpointing: bool | Literal["auto"] | None = switch(
        "Recompute the vision tower's activations likewise. Default: as --activation_checkpointing.",
        group="Precision and memory",
        resume="free",
    )
    release_gradients: bool = declare(
        False,
        "Update each weight inside the backward pass, as soon as its gradient is complete, and free the gradient: "
        "4 bytes less for each weight that learns, and the same weights to the last bit. Nothing can be clipped or "
        "accumulated then, and it takes one process without DeepSpeed.",
        group="Precision and memory",
        resume="free",
    )

    @property
    def changes_base(self) -> bool:
        """Whether LoRA starts from a part of the base's weights, which is subtracted from them while training."""
        return re.fullmatch(_CHANGES_BASE, self.init_lora_weights) is not None

    @property
    def listed_beside_lora(self) -> list[str] | None:
        """The names in ``--lora_modules_to_save``; None if it was not given."""
        if self.lora_modules_to_save is None:
            return None
        names = [name for name in re.split(r"[\s,]+", self.lora_modules_to_save) if name]
        return [] if names == ["none"] else names
