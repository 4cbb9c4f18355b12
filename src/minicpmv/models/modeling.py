"""The whole model: language model, vision tower and resampler under the released names ``llm``, ``vpm``, ``resampler``.

The language model is transformers' own; joining it with the images is ours. Images come as flat patch rows and take
the places that ``image_mask`` states, so nothing searches token ids. Pictures, prompts and training live elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from minicpmv.models.answering.official_chat import OfficialChat
from minicpmv.models.attention.packed_rows import PACKED_ATTENTION, mask_rows, nothing_masked, prefer_packed_attention
from minicpmv.models.attention.varlen import Lengths, never_compiled
from minicpmv.models.checkpoints.loading import StrictLoading
from minicpmv.models.checkpoints.permissions import OrdinaryFiles
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.networks.cached_slices import is_sharded, join_in_order, left_to_see
from minicpmv.models.networks.layout import Layout
from minicpmv.models.networks.loss import check_label_weights, count_chunks, labelled_token_loss
from minicpmv.models.networks.resampler import CrossAttention, Resampler
from minicpmv.models.networks.rotary import ExactRotary
from minicpmv.releases.row import Parts, find_code

__all__ = ["MiniCPMVForConditionalGeneration"]

# Shape letters in this file
#   B rows    T tokens    P patches of all slices    S slices    G blocks of image tokens    Q tokens of a block
#   D language width    E vision width

_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls keys and values of earlier tokens; ``cache`` from 5.24 on."""

_PICTURES = ("pixel_values", "pixel_table", "tgt_sizes", "temporal_ids")


def _module_at(model: nn.Module, place: str) -> Any:
    """Return the module of a full name."""
    return reduce(getattr, place.split("."), model)


class MiniCPMVForConditionalGeneration(  # pyright: ignore[reportIncompatibleMethodOverride]  StrictLoading is no model
    StrictLoading, OrdinaryFiles, OfficialChat, ExactRotary, PreTrainedModel, GenerationMixin
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
        prefer_packed_attention(config.text_config)
        self.build_parts(config)
        side = config.minicpmv_version.reading.token_side or 1
        self._blank_size = side, side
        """Rows and columns of the smallest picture."""
        # As texts, which torch.compile reads as constants.
        parts = config.minicpmv_version.network.parts
        self._body, self._head = parts.body, parts.head
        # MiniCPM-V-2 scales its text embeddings, not the image features among them, and its last hidden state.
        self._embedding_scale = float(getattr(config, "scale_emb", 1.0))
        self._logits_scaling = float(getattr(config.text_config, "logits_scaling", 1.0))
        self.post_init()

    def build_parts(self, config: MiniCPMVConfig) -> None:
        """Make the parts of the network under the names that the release's row has for them."""
        network = config.minicpmv_version.network
        self.llm: Any = find_code(network.language_model)(config.text_config)  # a different class per release
        self.vpm = find_code(network.tower)(config.vision_config, positions=network.vision_positions)
        self.resampler = find_code(network.connector).of_config(config)

    @property
    def parts(self) -> Parts:
        """Names of the parts among the modules."""
        return self.config.minicpmv_version.network.parts

    @property
    def tower(self) -> Any:
        """Makes features of patches."""
        return _module_at(self, self.parts.tower)

    @property
    def connector(self) -> Any:
        """Makes image tokens of the tower's features."""
        return _module_at(self, self.parts.connector)

    @property
    def body(self) -> Any:
        """The language model without its head."""
        return _module_at(self, self._body)

    @property
    def head(self) -> Any:
        """Makes logits of the language model's last hidden states."""
        return _module_at(self, self._head)

    @property
    def layers(self) -> Any:
        """The language model's layers."""
        return _module_at(self, self.parts.layers)

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

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Override transformers: after the choice, keep the kernel that knows packed rows where there is one."""
        super().set_attn_implementation(*args, **kwargs)
        prefer_packed_attention(self.config.text_config)

    def get_input_embeddings(self) -> nn.Module:
        """Override transformers: the token embeddings are those of the language model."""
        return _module_at(self, self.parts.language_model).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Override transformers: set the token embeddings of the language model."""
        _module_at(self, self.parts.language_model).set_input_embeddings(value)

    def enable_input_require_grads(self) -> None:
        """As transformers does, for whoever trains what lies behind frozen embeddings, but not in a frozen tower.

        PEFT asks for it always. A frozen tower would be run backwards then, to no end, which doubles its work.
        """

        def require(module: nn.Module, inputs: Any, output: Tensor) -> None:
            output.requires_grad_(True)

        def require_if_tower_learns(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if any(parameter.requires_grad for parameter in self.tower.parameters()):
                output.requires_grad_(True)

        hooked = ((self.get_input_embeddings(), require), (self.tower.get_input_embeddings(), require_if_tower_learns))
        self._require_grads_hooks = [module.register_forward_hook(hook) for module, hook in hooked]

    def get_output_embeddings(self) -> nn.Module:
        """Override transformers: the head is that of the language model."""
        return _module_at(self, self.parts.language_model).get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Override transformers: set the head of the language model."""
        _module_at(self, self.parts.language_model).set_output_embeddings(new_embeddings)

    # The shapes of its slices are data.
    @never_compiled
    def get_image_features(
        self,
        pixel_values: Tensor | None,
        tgt_sizes: Tensor,
        slices_per_sample: list[int] | None = None,
        temporal_ids: Tensor | None = None,
        pixel_table: Tensor | None = None,
    ) -> Tensor:
        """Run tower and resampler.

        Args:
            pixel_values: (P, 588), flattened patches of all slices, end to end. Float, or uint8 with ``pixel_table``.
            tgt_sizes: (S, 2), rows and columns of each slice in patches. Int.
            slices_per_sample: Slices of each sample; one sample if not given. Matters for 2.5 only.
            temporal_ids: (S, 2) int, see :meth:`forward`.
            pixel_table: (3, 256) float, see :meth:`forward`.

        Returns:
            (G, Q, D), the tokens of each block: one for each slice, or for each group of frames. Where slices have
            unequal numbers of tokens (``Reading.token_side``) these are end to end, (all tokens, D).

        Raises:
            ValueError: The sizes do not add up to the number of patches, ``temporal_ids`` do not fit, or
                ``pixel_values`` are bytes without their table.
        """
        layout = Layout.read(tgt_sizes=tgt_sizes, temporal_ids=temporal_ids)
        counts = slices_per_sample or [len(layout.sizes)]
        return self._run_vision(pixel_values, layout, counts, pixel_table)

    def _run_vision(
        self,
        pixel_values: Tensor | None,
        layout: Layout,
        slices_per_sample: Sequence[int],
        pixel_table: Tensor | None = None,
    ) -> Tensor:
        """Run tower and resampler as :meth:`get_image_features` does, the tower on slices that are not known alone."""
        sizes, times = layout.sizes, layout.times
        if times is not None and not self.config.minicpmv_version.reading.temporal:
            raise ValueError(f"temporal_ids came to {self.config.minicpmv_version.model}, which has no time")
        tower_features, known = layout.tower_features, layout.known or [False] * len(sizes)
        unseen, counts = left_to_see(known, sizes, slices_per_sample)
        num_patches = sum(rows * columns for rows, columns in unseen)
        num_given = 0 if pixel_values is None else len(pixel_values)
        if num_patches != num_given:
            raise ValueError(f"tgt_sizes describe {num_patches} patches, pixel_values hold {num_given}")
        if tower_features is None:
            if any(known):
                raise ValueError("the layout has known slices without tower_features or known_tokens")
            return self.connector(self.tower(pixel_values, sizes, counts, pixel_table), sizes, times)
        seen_PE = None
        if unseen:
            seen_PE = self.tower(pixel_values, unseen, counts, pixel_table)
        elif is_sharded(self.tower):  # another rank may run it, and would wait for this one
            self.tower(self._blank(tower_features.device), [self._blank_size], [1])
        patches = [rows * columns for rows, columns in sizes]
        return self.connector(join_in_order(known, patches, tower_features, seen_PE), sizes, times)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        tgt_sizes: Tensor | None = None,
        image_mask: Tensor | None = None,
        temporal_ids: Tensor | None = None,
        image_features: Tensor | None = None,
        pixel_table: Tensor | None = None,
        labels: Tensor | None = None,
        label_weights: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        cu_seq_lens_q: Tensor | None = None,
        layout: Layout | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """
        Rows are padded, with an ``attention_mask``, or packed: samples end to end, told apart by ``position_ids`` that
        start anew, and no ``attention_mask``. A sample's result is the same in both, and alone.

        Args:
            input_ids: (B, T) int64. What stands at image slots does not matter.
            attention_mask: (B, T), 1 on real tokens. Needed whenever a row is padded.
            position_ids: (B, T), counted from each row's first real token if not given.
            past_key_values: Cache of earlier steps of a generation.
            inputs_embeds: (B, T, D) instead of ``input_ids``; taken as they are, without images.
            pixel_values: (P, 588), patches of all slices in the order of rows, images and slices. Float: normalised, as
                processors return them. Or uint8 with ``pixel_table``, as collators do.
            tgt_sizes: (S, 2), rows and columns of each slice in patches.
            image_mask: (B, T) bool, true at the G * Q slots that image tokens fill, in order.
            temporal_ids: (S, 2) int64, for video frames (4.5): 1 where a slice opens a block of image tokens and 0
                where it joins the slice before it, then its time index or -1. Without it every slice has a block.
            image_features: (G, Q, D), or its tokens end to end: what :meth:`get_image_features` returned, instead of
                the pictures.
            pixel_table: (3, 256) float, the value of each byte in each channel, where ``pixel_values`` are bytes.
            labels: (B, T) int64, unshifted, -100 where nothing is trained.
            label_weights: (B, T) float, how much each label counts in the loss, from 0 on; 1 if not given. Not read
                where nothing is trained.
            use_cache: Whether to return a cache; never with labels.
            logits_to_keep: Logits of that many last positions only; 0 for all.
            num_items_in_batch: What the summed loss is divided by: how many tokens of the whole optimizer step are
                labelled, or what their labels weigh together. That of this batch if not given.
            cu_seq_lens_q: (samples + 1,) int32, transformers' name for the offsets of the samples of one packed row;
                spares looking for them in ``position_ids``.
            layout: What ``layout.lay_out`` made of a batch, in place of the tensors that only say where things are:
                ``position_ids``, ``cu_seq_lens_q``, ``image_mask``, ``tgt_sizes`` and ``temporal_ids``. It also holds
                the features of slices that were seen before, whose pixels do not come along. It spares the host all
                questions to the device, each of which is a wait.
            cache: ``past_key_values``, as transformers from 5.24 on calls it.
            kwargs: Passed on to the language model.

        Returns:
            With labels the loss, ``sum(weight * nats) / sum(weight)``, and no logits: they are never computed for a
            token that is not trained, nor for one of weight 0. Without labels
            the logits, (B, T or ``logits_to_keep``, vocabulary).

        Raises:
            ValueError: Image arguments are incomplete or of a wrong type, slots and features differ in number, or
                weights do not fit the labels.
        """
        past_key_values = cache if past_key_values is None else past_key_values
        check_label_weights(labels, label_weights)
        training_step = labels is not None
        if layout is None:
            is_bare = attention_mask is None and past_key_values is None
            layout = Layout.read(
                position_ids=position_ids if is_bare else None,
                cu_seq_lens_q=cu_seq_lens_q if is_bare else None,
                image_mask=image_mask,
                tgt_sizes=tgt_sizes,
                temporal_ids=temporal_ids,
                labels=labels,
                label_weights=label_weights,
            )
        if attention_mask is not None and position_ids is None and past_key_values is None:
            # From the first real token on, so that padding on the left does not move a sample.
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        if layout.samples is not None:
            given: Any = input_ids if inputs_embeds is None else inputs_embeds
            if position_ids is None:
                position_ids = layout.position_ids(given.shape[:2], given.device)
            attention_mask = self._hand_down(layout.samples, cu_seq_lens_q, given.device, kwargs)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("expected input_ids or inputs_embeds, got neither")
            if image_features is None and (pixel_values is not None or layout.known is not None):
                image_features = self._see(layout, pixel_values, pixel_table)
            # Before the text's embeddings, as with a picture: engines count on gradients in one order on all ranks.
            blank = self._see_nothing(input_ids.device) if training_step and image_features is None else None
            inputs_embeds = self._embed(input_ids, image_features, layout.image_places)
            if blank is not None:
                inputs_embeds = inputs_embeds + blank.to(inputs_embeds)
        config = self.config.text_config
        is_whole = layout.samples is None and past_key_values is None
        if is_whole and layout.tokens_of_each and config._attn_implementation == PACKED_ATTENTION:
            attention_mask = mask_rows(config, inputs_embeds, attention_mask, layout.tokens_of_each)
        outputs = self.body(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{_CACHE: past_key_values},
            # A cache would also switch off transformers' recognition of packed rows.
            use_cache=False if training_step or layout.samples is not None else use_cache,
            **kwargs,
        )
        hidden_BTD = outputs.last_hidden_state
        loss = logits = None
        if labels is not None:
            assert layout.label_places is not None, "it was made of a batch with labels"
            loss = labelled_token_loss(
                hidden_BTD,
                labels,
                layout.label_places,
                self._project,
                weights_BT=label_weights,
                num_items_in_batch=num_items_in_batch,
                num_chunks=count_chunks(self.config.text_config.vocab_size),
            )
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._project(hidden_BTD[:, kept])
        kept_cache: dict[str, Any] = {_CACHE: getattr(outputs, _CACHE)}
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **kept_cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _hand_down(
        self, samples: Lengths, cu_seq_lens: Tensor | None, device: torch.device, kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Tell the layers where samples begin, through their keyword arguments; return their attention mask."""
        if self.config.text_config._attn_implementation == PACKED_ATTENTION:
            kwargs["sequence_lengths"] = samples
            return nothing_masked(device)  # transformers would make a mask of T x T, which nothing reads
        if cu_seq_lens is not None:
            longest = max(samples)
            kwargs |= {"cu_seq_lens_q": cu_seq_lens, "max_length_q": longest}
            kwargs |= {"cu_seq_lens_k": cu_seq_lens, "max_length_k": longest}
        return None

    @never_compiled
    def _see(self, layout: Layout, pixel_values: Tensor | None, pixel_table: Tensor | None = None) -> Tensor:
        """Image tokens of a batch, (G, Q, D)."""
        if not layout.sizes or layout.image_places is None:
            raise ValueError("pixel_values came without tgt_sizes or image_mask; pass all that the processor returned")
        counts, known_GQD = self._count_slices(layout), layout.known_tokens
        if known_GQD is None:
            return self._run_vision(pixel_values, layout, counts, pixel_table)
        if layout.known is None or layout.times is not None:
            raise ValueError("the layout has known_tokens without known slices, or with times")
        unseen, counts = left_to_see(layout.known, layout.sizes, counts)
        seen_GQD = None
        if unseen:
            seen_GQD = self._run_vision(pixel_values, Layout(sizes=tuple(unseen)), counts, pixel_table=pixel_table)
        elif is_sharded(self.tower):
            self._see_nothing(known_GQD.device)
        reading, query_num = self.config.minicpmv_version.reading, self.config.query_num
        rows = [1 if reading.token_side is None else reading.tokens_of(size, query_num) for size in layout.sizes]
        return join_in_order(layout.known, rows, known_GQD, seen_GQD)

    def _count_slices(self, layout: Layout) -> list[int]:
        """Count the slices of each sample, from how many image tokens it has."""
        reading = self.config.minicpmv_version.reading
        if layout.times is not None:  # slots do not tell a sample's slices, and nothing depends on its sample
            return [len(layout.sizes)]
        if reading.token_side is None:
            return [slots // self.config.query_num for slots in layout.slots_of_each]
        ends = list(accumulate(reading.tokens_of(size, 0) for size in layout.sizes))
        slices = [bisect_right(ends, slots) for slots in accumulate(layout.slots_of_each)]
        return [end - start for start, end in pairwise([0, *slices])]

    def _see_nothing(self, device: torch.device) -> Tensor:
        """Zero, by way of tower and resampler.

        Engines that shard or synchronise parameters wait for ever if one rank skips a module that another one runs.
        """
        features_GQD = self._run_vision(self._blank(device), Layout(sizes=(self._blank_size,)), [1])
        return 0.0 * features_GQD.sum()

    def _blank(self, device: torch.device) -> Tensor:
        """Patches of the smallest picture, (P, 588)."""
        # From the config: reading a weight's shape would make ZeRO-3 gather it on this rank alone.
        width = 3 * cast("int", self.config.vision_config.patch_size) ** 2
        return torch.zeros(self._blank_size[0] * self._blank_size[1], width, device=device)

    def _embed(self, input_ids: Tensor, image_features: Tensor | None, image_places: Tensor | None) -> Tensor:
        """Text embeddings with image tokens in their slots, (B, T, D)."""
        embeds_BTD = self.get_input_embeddings()(input_ids)
        if self._embedding_scale != 1.0:
            embeds_BTD = embeds_BTD * self._embedding_scale
        if image_features is None:
            return embeds_BTD
        if image_places is None:
            raise ValueError("image_features came without image_mask; pass all that the processor returned")
        tokens_GD = image_features.flatten(0, -2)
        if len(image_places) != len(tokens_GD):  # the released code drops the surplus in silence
            raise ValueError(f"image_mask has {len(image_places)} slots for {len(tokens_GD)} image tokens")
        # By places, not by the mask, of whose gradient the host would have to ask the size. In two dimensions: what is
        # viewed in another shape has the first layer compiled once more.
        places = image_places.to(embeds_BTD.device, non_blocking=True)
        indices = places // embeds_BTD.shape[1], places % embeds_BTD.shape[1]
        return embeds_BTD.index_put(indices, tokens_GD.to(embeds_BTD))

    def _project(self, hidden: Tensor) -> Tensor:
        # Divided before the head, as released: in bfloat16 Granite's division of the logits would round differently.
        return self.head(hidden / self._logits_scaling if self._logits_scaling != 1.0 else hidden)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the images to the first step only; afterwards they are in the cache, if there is one.

        Args:
            input_ids: (B, T) int64, the prompt and the answer so far.
            **kwargs: As ``forward`` describes them.
        """
        inputs: dict[str, Any] = cast("Any", super()).prepare_inputs_for_generation(input_ids, **kwargs)
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            for key in (*_PICTURES, "image_mask", "image_features", "layout"):
                inputs.pop(key, None)
        elif (image_mask := inputs.get("image_mask")) is not None:  # of the prompt: the answer so far has no images
            num_new = input_ids.shape[1] - image_mask.shape[1]
            inputs["image_mask"] = nn.functional.pad(image_mask, (0, num_new))
        return inputs

    def _expand_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each row for beams or several answers; its pictures are seen once, and their tokens repeated."""
        pictures = {key: kwargs.pop(key, None) for key in _PICTURES}
        features, image_mask = kwargs.pop("image_features", None), kwargs.get("image_mask")
        if (
            expand_size > 1
            and any(given is not None for given in (features, pictures["pixel_values"]))
            and image_mask is not None
        ):
            names = ("tgt_sizes", "temporal_ids")
            layout = Layout.read(image_mask=image_mask, **{name: pictures[name] for name in names})
            if features is None:
                pixels, table = pictures["pixel_values"], pictures["pixel_table"]
                features = self._see(layout, pixels, table)
            tokens_by_row = features.flatten(0, -2).split(list(layout.slots_of_each))
            features = torch.cat([tokens for tokens in tokens_by_row for _ in range(expand_size)])
            pictures = {}
        expand = cast("Any", super())._expand_inputs_for_generation
        input_ids, kwargs = expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        kept = {key: value for key, value in (pictures | {"image_features": features}).items() if value is not None}
        return input_ids, kwargs | kept
