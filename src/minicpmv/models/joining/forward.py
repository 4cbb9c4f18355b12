"""The forward pass of every release: pictures into their slots, packed rows, the loss of labelled tokens.

Images come as flat patch rows and take the places that ``image_mask`` states, so nothing searches token ids. Pictures,
prompts and training live elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from minicpmv.models.attention.branches import Branches
from minicpmv.models.attention.packed_rows import (
    PACKED_ATTENTION,
    by_kind,
    is_hybrid,
    mask_rows,
    nothing_masked,
    prefer_packed_attention,
)
from minicpmv.models.attention.varlen import Lengths
from minicpmv.models.joining.seeing import SeesPictures
from minicpmv.models.networks.layout import Layout
from minicpmv.models.networks.loss import check_label_weights, count_chunks, labelled_log_probs, labelled_token_loss

__all__ = ["JoinsPictures", "ModelOutput"]

# Shape letters in this file
#   B rows    T tokens    P patches of all slices    S slices    G blocks of image tokens    Q tokens of a block
#   D language width    E vision width


_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""Is what transformers calls keys and values of earlier tokens: ``cache`` from 5.24 on."""


@dataclass
class ModelOutput(CausalLMOutputWithPast):
    """What a forward pass returns."""

    log_probs: Tensor | None = None
    """(M,) float32, of labelled tokens."""


class JoinsPictures(SeesPictures):
    """A language model that is shown pictures."""

    _embedding_scale: float
    _logits_scaling: float

    def settle(self, config: Any) -> None:
        """Look up once, for every step, what the config and the release's row say; the modules need not be there."""
        prefer_packed_attention(config.text_config)
        # As texts, which torch.compile reads as constants.
        self._body, self._head = self.parts.body, self.parts.head
        # MiniCPM-V-2 scales its text embeddings, not the image features among them, and its last hidden state.
        self._embedding_scale = float(getattr(config, "scale_emb", 1.0))
        self._logits_scaling = float(getattr(config.text_config, "logits_scaling", 1.0))

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
        mrope_position_ids: Tensor | None = None,
        layout: Layout | None = None,
        return_hidden: bool = False,
        return_log_probs: bool = False,
        cache: Any = None,
        **kwargs: Any,
    ) -> ModelOutput | BaseModelOutputWithPast:
        """
        Rows are padded, with an ``attention_mask``, or packed: samples end to end, told apart by ``position_ids`` that
        start anew, and no ``attention_mask``. A sample's result is the same in both, and alone.

        Args:
            input_ids: (B, T) int64. What stands at image slots does not matter.
            attention_mask: (B, T), 1 on real tokens. Needed whenever a row is padded.
            position_ids: (B, T), counted from each row's first real token if not given. Or (4, B, T), with the three
                rows of ``mrope_position_ids`` behind.
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
            mrope_position_ids: (3, B, T) int64, for 4.7: of each token its time, row and column. Without it all three
                are ``position_ids``, as text has them.
            layout: What ``layout.lay_out`` made of a batch, in place of the tensors that only say where things are:
                ``position_ids``, ``cu_seq_lens_q``, ``image_mask``, ``tgt_sizes`` and ``temporal_ids``. It also holds
                the features of slices that were seen before, whose pixels do not come along. It spares the host all
                questions to the device, each of which is a wait.
            return_hidden: Whether to return ``last_hidden_state``, (B, T, D), instead of logits or a loss, for callers
                that have a head of their own (``base_model``).
            return_log_probs: Whether to return ``log_probs`` of the labelled tokens instead of their loss.
            cache: ``past_key_values``, as transformers from 5.24 on calls it.
            kwargs: Passed on to the language model.

        Returns:
            With labels the loss, ``sum(weight * nats) / sum(weight)``, or ``log_probs``, (M,) float32 in nats, one for
            each of the layout's label places, whatever they weigh. No logits then: they are never computed for a
            token that is not trained, nor for one of weight 0. Without labels the logits, (B, T or
            ``logits_to_keep``, vocabulary).

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
                position_ids=_of_text(position_ids) if is_bare else None,
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
        if mrope_position_ids is not None:
            position_ids = self._all_positions(position_ids, mrope_position_ids)
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
        kept: dict[str, Any] = {
            _CACHE: getattr(outputs, _CACHE),
            "hidden_states": outputs.hidden_states,
            "attentions": outputs.attentions,
        }
        if return_hidden:
            return BaseModelOutputWithPast(last_hidden_state=hidden_BTD, **kept)
        loss = logits = log_probs = None
        if labels is not None:
            assert layout.label_places is not None, "it was made of a batch with labels"
            labelled: Any = (hidden_BTD, labels, layout.label_places, self._project)
            how: Any = {
                "sources_M": layout.label_sources,
                "num_chunks": count_chunks(self.config.text_config.vocab_size),
            }
            if return_log_probs:
                log_probs = labelled_log_probs(*labelled, **how)
            else:
                of_step = {"weights_BT": label_weights, "num_items_in_batch": num_items_in_batch}
                loss = labelled_token_loss(*labelled, **how, **of_step)
        elif return_log_probs:
            raise ValueError("return_log_probs came without labels; pass both, or neither")
        else:
            last = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._project(hidden_BTD[:, last])
        return ModelOutput(loss=loss, logits=logits, log_probs=log_probs, **kept)

    def _all_positions(self, position_ids: Tensor | None, mrope_position_ids: Tensor) -> Tensor:
        """Put the position in the row before those of time, row and column, (4, B, T)."""
        version = self.config.minicpmv_version
        if version.reading.positions is None:
            raise ValueError(f"mrope_position_ids came to {version.model}, whose tokens have one position each")
        if position_ids is None:
            _, num_rows, length = mrope_position_ids.shape
            position_ids = torch.arange(length, device=mrope_position_ids.device).expand(num_rows, -1)
        return torch.cat([position_ids[None], mrope_position_ids.to(position_ids)])

    def _hand_down(
        self, samples: Lengths, cu_seq_lens: Tensor | None, device: torch.device, kwargs: dict[str, Any]
    ) -> Any:
        """Tell the layers where samples begin, through their keyword arguments; return their attention mask."""
        config = self.config.text_config
        if config._attn_implementation == PACKED_ATTENTION:
            kwargs["sequence_lengths"] = samples
            # transformers would make a mask of T x T, which nothing reads
            return by_kind(config, nothing_masked(device), None)
        if isinstance(samples, Branches):
            raise ValueError(
                f"attention {config._attn_implementation!r} has no way to let two answers see one prompt; expected "
                f"{PACKED_ATTENTION!r} (attn_implementation sdpa, which is the default)"
            )
        if is_hybrid(config):
            kwargs["sequence_lengths"] = samples
        if cu_seq_lens is not None:
            longest = max(samples)
            kwargs |= {"cu_seq_lens_q": cu_seq_lens, "max_length_q": longest}
            kwargs |= {"cu_seq_lens_k": cu_seq_lens, "max_length_k": longest}
        return None

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


def _of_text(position_ids: Tensor | None) -> Tensor | None:
    """The row of positions that counts the tokens of a sample, (B, T)."""
    return position_ids if position_ids is None or position_ids.ndim == 2 else position_ids[0]
