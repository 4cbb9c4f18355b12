"""The shape of a row of the table: how a release is read, what computes it, and which engines run it.

A row names code by dotted name, ``package.module:Name``, so that the table needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

__all__ = [
    "DEFAULT_LORA_TARGET",
    "Answering",
    "Engines",
    "FilmRule",
    "Gguf",
    "Markup",
    "Network",
    "OwnConverter",
    "Parts",
    "PositionScheme",
    "Reading",
    "Tags",
    "TokenRule",
    "Version",
    "find_code",
]

PositionScheme = Literal["interpolated", "row", "grid"]
Tags = tuple[str, str]
"""The tokens around something, the opening one first."""


def find_code(name: str) -> Any:
    """Import what a row names.

    >>> find_code("minicpmv.releases.row:find_code").__name__
    'find_code'
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True, kw_only=True, slots=True)
class Markup:
    """The tokens that stand for a picture in the text, and around it."""

    slot: str = "<unk>"
    """Holds the place of one image token."""
    frame_slot: str | None = None
    """The same for a frame of a film, where it is another token (4.6 and later)."""
    image: Tags = ("<image>", "</image>")
    """Around the overview."""
    tile: Tags
    """Around each tile. 2.0 and 2.5 use those of the overview again."""
    grid: Tags | None = None
    """Around all tiles of a picture together (2.0, 2.5)."""
    number: Tags | None = None
    """Around a picture's number, which stands before it unless the checkpoint says otherwise (2.6 and later)."""
    numbers_films: bool = False
    """Whether a film, too, has its number before it where pictures have; films are counted by themselves (4.6)."""
    between_rows: str = "\n"
    """Text between two rows of tiles."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token that may be written; the tokenizer must know them."""
        pairs = (self.image, self.tile, self.grid or (), self.number or ())
        slots = (self.slot,) if self.frame_slot is None else (self.slot, self.frame_slot)
        return tuple(dict.fromkeys((*slots, *(token for pair in pairs for token in pair))))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRule:
    """How many image tokens a slice of a checkpoint has."""

    side: int | None = None
    """Patches along each side of the square that one token stands for; None where every slice has ``query_num``."""
    query_num: int = 0

    @property
    def is_uneven(self) -> bool:
        """Whether slices of different sizes have different numbers of tokens."""
        return self.side is not None

    def count(self, size: tuple[int, int]) -> int:
        """Count the image tokens of a slice from its rows and columns in patches."""
        return self.query_num if self.side is None else size[0] * size[1] // self.side**2

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of image tokens of a slice where tokens stand for squares of it."""
        assert self.side is not None, "image tokens of this release have no place"
        return size[0] // self.side, size[1] // self.side

    def patches_each(self, slice_side: float) -> float:
        """Patches for each image token, of a square slice of so many patches along a side."""
        return slice_side**2 / self.query_num if self.side is None else float(self.side**2)


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmRule:
    """How a release takes frames of a film, and how it is fed with them; all as released unless a request says more."""

    sampling: str
    """Dotted name of the function that chooses the frames; ``minicpmv.processing.films.sampling``."""
    fps: float = 1.0
    """Frames a second that are wanted."""
    max_frames: int
    """Most frames of one film."""
    max_blocks: int | None = None
    """Most blocks of tokens of one film, where frames share them; None: as many as frames."""
    max_group: int = 1
    """Most frames that may share a block of tokens."""
    max_slices: int = 1
    """``max_slice_nums`` of each frame."""
    has_time: bool = False
    """Whether the model is told the time of each frame (4.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a conversation becomes tokens. Nothing here needs torch."""

    dialect: str
    """Dotted name of the ``Dialect`` in which a conversation becomes text; ``minicpmv.processing.text.dialects``."""
    processor: str = "minicpmv.processing.processor:MiniCPMVProcessor"
    """Dotted name of the class that joins tokenizer and pictures. ``model.chat()`` makes its prompts by it."""
    tokenizer: str
    """Dotted name of the tokenizer's class."""
    terminators: tuple[str, ...]
    """Tokens at which generation stops, those of them that the tokenizer has. Released generation configs miss some,
    such as 2.5's ``<|eot_id|>``."""
    markup: Markup
    token_side: int | None = None
    """Patches along each side of the square that one image token stands for. Slices then have sides of whole multiples
    of it, and a number of tokens each. None: every slice, or group of frames, has the config's ``query_num`` tokens."""
    downsample_modes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Value of ``downsample_mode`` that a checkpoint may have -> its ``token_side``. Empty without a choice."""
    file_classes: tuple[str, str] | None = None
    """The classes of image processor and processor that its ``preprocessor_config.json`` names, where they are
    transformers' own; None: ours."""
    positions: str | None = None
    """Dotted name of what gives each token three positions, of time, row and column (4.7). None: one, its place."""
    never_text: str | None = None
    """Regular expression of added tokens that no text of a user or answer may spell, whether their file calls them
    special or not: the speech of the o models."""
    temporal: bool = False
    """Whether frames of a video can share a block of image tokens (4.5)."""
    films: FilmRule | None = None
    """How films are read; None: the release takes none."""
    no_films: str = ""
    """Why it takes none, as the end of a sentence."""
    thinking: bool = False
    """Whether the dialect has a switch for thinking (4.5 and later)."""

    def token_rule(self, mode: str | None, query_num: int) -> TokenRule:
        """Return how many image tokens a slice has.

        Args:
            mode: One of ``downsample_modes``; None for the release's own.
            query_num: Tokens of a slice where they do not depend on its size.
        """
        side = self.token_side if mode is None or not self.downsample_modes else self.downsample_modes[mode]
        return TokenRule(side=side, query_num=query_num)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering:
    """States the defaults of the released ``chat()``."""

    max_input_tokens: int
    """Tokens of the longest prompt: its ``max_inp_length``."""
    max_new_tokens: int
    """Tokens of the longest answer."""
    repetition_penalty: float = 1.05
    """When tokens are drawn at random, without thinking."""
    returns_history: bool = False
    """Whether the conversation and the settings come back with the answer (2.0)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Names each part of the network as the network's modules do: the beginning of its keys."""

    tower: str = "vpm"
    connector: str = "resampler"
    language_model: str = "llm"
    body: str = "llm.model"
    """The language model without its head."""
    embeddings: str = "llm.model.embed_tokens"
    head: str = "llm.lm_head"
    layers: str = "llm.model.layers"
    """The list of the language model's layers."""


DEFAULT_LORA_TARGET = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
"""The language model's attention, as in the official recipe."""
_LORA_ON: Mapping[str, str] = {
    "attention": DEFAULT_LORA_TARGET,
    "all-linear": r"llm\.model\.layers\.\d+\..*_proj",
    "vision-attention": r"vpm\.encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)",
    "vision-all-linear": r"vpm\.encoder\.layers\.\d+\..*(_proj|fc1|fc2)",
    # The rest of it are bare weights, or read by the released code past any module that LoRA could wrap.
    "resampler": r"resampler\.kv_proj",
}
_LORA_NOTICES: Mapping[str, str] = {
    "resampler.attn.out_proj": "LoRA on resampler.attn.out_proj works here and once it is merged; the released code "
    "reads that weight directly and would leave it out"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Names the code that computes a release, and the release's parts."""

    model_type: str = "minicpmv"
    """As ``config.json`` has it; transformers finds the classes below by it."""
    config: str = "minicpmv.models.configuration:MiniCPMVConfig"
    """Dotted name of the config's class."""
    model: str = "minicpmv.models.modeling:MiniCPMVForConditionalGeneration"
    """Dotted name of the model's class."""
    language_model: str
    """Dotted name of transformers' class that computes exactly what the released language model does."""
    tower: str = "minicpmv.models.networks.siglip:VisionTower"
    """Dotted name of the vision tower's class."""
    connector: str = "minicpmv.models.networks.resampler:Resampler"
    """Dotted name of the class that makes image tokens of the tower's features; it has ``of_config`` and ``flops``."""
    vision_positions: PositionScheme
    """``interpolated``: a learned table resized to each slice (2.0). ``row``: bucketed along the first row of the table
    by the sample's longest slice, padding attended (2.5). ``grid``: bucketed rows and columns (2.6 and later)."""
    vision_activation: Literal["gelu", "gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    """2.0's timm tower uses the exact error function, later towers the tanh approximation."""
    query_positions: bool = False
    """Whether the resampler stores positions for its queries (``resampler.pos_embed``, 2.0 only)."""
    parts: Parts = field(default_factory=Parts)
    lora_on: Mapping[str, str] = field(default_factory=lambda: _LORA_ON)
    """Word of ``--lora_target_modules`` -> regular expression over full names of modules."""
    lora_parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Word of ``--lora_target_modules`` -> regular expression over full names of tensors that are no module of their
    own, such as those that hold all experts of a layer."""
    lora_notices: Mapping[str, str] = field(default_factory=lambda: _LORA_NOTICES)
    """Full name of a module -> what whoever puts LoRA on it should know."""
    needed_fields: tuple[str, ...] = ("vision_config",)
    """Fields that its ``config.json`` must state, besides the language model's sizes."""
    unstated_vision: Mapping[str, int] = field(default_factory=dict[str, int])
    """Sizes of a vision tower that ``config.json`` only names, before its last layer is dropped (2.0)."""
    carried: tuple[str, ...] = ()
    """Beginnings of the keys of tensors that a checkpoint holds and its model does not compute here, such as the speech
    of the o models. They are never read into the model, and go byte for byte into what is saved."""
    whole_folders: tuple[str, ...] = ()
    """Folders of a checkpoint that are copied whole, weights and all, because the released code reads them."""
    may_stay_float32: tuple[str, ...] = ()
    """Ends of the keys of tensors that stay in float32, in memory and in what is saved, if a checkpoint has them so."""
    never_packed: tuple[str, ...] = ()
    """Last pieces of the names of linear layers of the language model that ``--q_lora`` leaves as they are: too small
    for 4 bits to save anything, and read by a recurrence that sums their rounding up."""
    undecayed: tuple[str, ...] = ()
    """Ends of the keys of parameters that no weight decay may pull to zero, besides biases and norms."""
    overflows_in_float16: bool = False
    """Whether numbers that its language model computes are known to exceed float16, as those of Qwen2-7B do
    (https://github.com/QwenLM/Qwen3/issues/868)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gguf:
    """How llama.cpp knows a release."""

    version: int
    """Its ``clip.minicpmv_version``, which decides the tokens around slices: 2.5's own, or those of all others."""
    architecture: Literal["LLAMA", "QWEN2", "QWEN3"]
    """Which of its language models computes this one, by gguf's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnConverter:
    """A release whose GGUF files llama.cpp's own converter makes of a directory as it is."""

    architecture: str
    """Class by which the converter knows it, as in ``architectures`` of its ``config.json``."""
    since: str
    """The first llama.cpp whose converter knows it, as an end of a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engines:
    """Which other engines run a release, or why one does not."""

    gguf: Gguf | OwnConverter | str
    """For llama.cpp; a text says why there is no file for it."""
    vllm: str | None = None
    """Why vLLM cannot run it with this package's plugin, and what to do; None where it can, or was not asked to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What one released version implies beyond its config."""

    name: str
    """As people write it: ``2.6``."""
    model: str
    """The released model that defines the version."""
    llm_types: tuple[str, ...]
    """Values of the official scripts' ``--llm_type`` that mean this version; the first is the one we write."""
    reading: Reading
    network: Network
    answering: Answering
    engines: Engines
    also_written: tuple[str, ...] = ()
    """Other spellings of the name in ``config.json``: JSON writers drop the fraction of 2.0 and 4.0."""
    may_leave_version_out: bool = False
    """Whether a ``config.json`` of its ``model_type`` without a version is this release's."""
    text_model_type: str | None = None
    """``text_config.model_type`` of its files, where that tells it from another release of the same ``model_type``."""
    own_fields: tuple[str, ...] = ()
    """Fields of a ``config.json`` that only this release has; it is known by them where the file states no version."""
