"""Makes transformers' Auto classes load MiniCPM-V directories with this package's code, never with code found there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import wrapt
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

# From its own module: what the top level offers under this name refuses everything when there is no torchvision.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from minicpmv.data.media.opened_films import open_film
from minicpmv.errors import UsageError
from minicpmv.models.adapters.peft_loading import watch_peft
from minicpmv.models.checkpoints.key_names import register_conversions
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokens.released_tokenizers import (
    LlamaTokenizerWrapper,
    MiniCPMOTokenizerFast,
    MiniCPMVTokenizerFast,
)
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS, Version, is_model_type

__all__ = ["register"]


def register() -> None:
    """Register config, models, tokenizer and processors, and watch PEFT; calling it again changes nothing."""
    register_conversions()
    MiniCPMVProcessor.film_opener = staticmethod(open_film)
    for version in {version.network.model_type: version for version in VERSIONS.values()}.values():
        _register(version)
    # Registered by the class names in tokenizer_config.json, not for MiniCPMVConfig: for a tokenizer found through its
    # config, AutoTokenizer prefers the code in the directory when told trust_remote_code=True.
    AutoTokenizer.register(_V2Tokenizer, LlamaTokenizerWrapper, exist_ok=True)
    AutoTokenizer.register(_LaterTokenizer, MiniCPMVTokenizerFast, exist_ok=True)
    AutoTokenizer.register(_OmniTokenizer, MiniCPMOTokenizerFast, exist_ok=True)
    _find_image_processor_without_file()
    wrapt.register_post_import_hook(watch_peft, "peft.peft_model")


def _register(version: Version) -> None:
    network = version.network
    config: type[PreTrainedConfig] = find_code(network.config)
    AutoConfig.register(network.model_type, config, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(config, find_code(network.model), exist_ok=True)
    if version.reading.file_classes is not None:
        return  # its files name transformers' own processors, whose inputs its model takes as well
    AutoProcessor.register(config, find_code(version.reading.processor), exist_ok=True)
    # Under both names, or transformers remarks that the one it would rather have is missing.
    image_processors: dict[str, type] = {"pil": MiniCPMVImageProcessor, "torchvision": MiniCPMVImageProcessor}
    AutoImageProcessor.register(config, image_processor_classes=image_processors, exist_ok=True)
    AutoVideoProcessor.register(config, _NoVideoProcessor, exist_ok=True)


class _V2Tokenizer(PreTrainedConfig):
    """Stands for MiniCPM-V-2's tokenizer class where transformers wants a config; no checkpoint has it."""

    model_type = "minicpmv_2_tokenizer"


class _LaterTokenizer(PreTrainedConfig):
    """Stands for the later releases' tokenizer class where transformers wants a config; no checkpoint has it."""

    model_type = "minicpmv_tokenizer"


class _OmniTokenizer(PreTrainedConfig):
    """Stands for MiniCPM-o's tokenizer class where transformers wants a config; no checkpoint has it."""

    model_type = "minicpmo_tokenizer"


class _NoVideoProcessor:
    """Stands where transformers would make up a video processor from the released image processor's entry.

    Pipelines look for one. Without this they would import the code in the directory, or ask whether they may.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **_options: Any) -> Any:
        raise UsageError(
            f"{pretrained_model_name_or_path}: found no video processor, expected films in messages instead\n"
            "  fix: give {'type': 'video', 'video': path} to AutoProcessor's apply_chat_template"
        )


def _find_image_processor_without_file() -> None:
    """Let AutoImageProcessor load MiniCPM-V-2, which has no preprocessor_config.json.

    transformers offers no way in: it stops at the missing file before it looks at ``config.json``'s model_type. Only
    that failure is caught. May go when AutoImageProcessor asks the config first.
    """
    if not isinstance(AutoImageProcessor.from_pretrained, wrapt.BoundFunctionWrapper):
        wrapt.wrap_function_wrapper(AutoImageProcessor, "from_pretrained", _from_pretrained_or_config)


def _from_pretrained_or_config(wrapped: Callable[..., Any], _class: type, args: tuple[Any, ...], kwargs: Any) -> Any:
    given = dict(kwargs)
    try:
        return wrapped(*args, **kwargs)
    except OSError:
        given.pop("trust_remote_code", None)
        path = args[0] if args else given.pop("pretrained_model_name_or_path")
        try:
            fields, _ = PreTrainedConfig.get_config_dict(path)
        except OSError:
            fields = {}
        if not is_model_type(fields.get("model_type")):
            raise
        return MiniCPMVImageProcessor.from_pretrained(path, **given)
