"""The network of releases up to 4.5: language model, vision tower and resampler as ``llm``, ``vpm``, ``resampler``.

The language model is transformers' own; joining it with the images is ours, and that of every release (``joining``).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init

from minicpmv.models.configuration import MiniCPMOConfig, MiniCPMVConfig
from minicpmv.models.joining.headless import Headless
from minicpmv.models.joining.model import JoinedModel
from minicpmv.models.networks.resampler import CrossAttention, Resampler
from minicpmv.releases.row import find_code

__all__ = ["MiniCPMOForConditionalGeneration", "MiniCPMVForConditionalGeneration"]


class MiniCPMVForConditionalGeneration(  # pyright: ignore[reportIncompatibleMethodOverride]  JoinedModel is no model
    JoinedModel, PreTrainedModel, GenerationMixin
):
    """Every MiniCPM-V release up to 4.5, told apart by its config.

    Loads a released directory with ``from_pretrained(path)``; ``save_pretrained`` writes the released layout.
    """

    config_class = MiniCPMVConfig
    config: MiniCPMVConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GraniteDecoderLayer",
                         "VisionEncoderLayer", "VisionEmbeddings", "Resampler"]  # fmt: skip
    _skip_keys_device_placement = ["past_key_values", "cache"]

    def __init__(self, config: MiniCPMVConfig) -> None:
        super().__init__(config)
        self.settle(config)
        self.build_parts(config)
        self.post_init()

    @property
    def base_model(self) -> Any:
        """Override transformers: the model without its head, for callers that compute log-probabilities themselves."""
        return Headless(self)

    def build_parts(self, config: MiniCPMVConfig) -> None:
        """Make the parts of the network under the names that the release's row has for them."""
        network = config.minicpmv_version.network
        self.llm: Any = find_code(network.language_model)(config.text_config)  # a different class per release
        self.vpm = find_code(network.tower)(config.vision_config, positions=network.vision_positions)
        self.resampler = find_code(network.connector).of_config(config)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.text_config.initializer_range
        if isinstance(module, Resampler):
            for tensor in (module.query, module.proj, module.pos_embed):
                if tensor is not None:
                    init.trunc_normal_(tensor, std=std)
        elif isinstance(module, CrossAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)


class MiniCPMOForConditionalGeneration(MiniCPMVForConditionalGeneration):
    """Vision and language of the MiniCPM-o releases; speech is carried in their files."""

    config_class = MiniCPMOConfig
