"""Layers that carry a state from token to token (gated delta rule), in packed rows: each sample by itself.

Nothing but the state and the convolution looks from a token to those before it. The convolution runs once over all
samples, held apart by as many zeros as it has taps beyond the first, which is what it reads before the start of a row.
The state starts anew at each sample: on CUDA with flash-linear-attention in one call that knows the offsets, elsewhere
sample by sample. Both are always told together; projections run once, so that engines that shard them count alike.
A branch has both run over what it continues and itself, and keeps its own part: the state behind a prompt is computed
again for each answer, to the bit as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from transformers.models.qwen3_5 import modeling_qwen3_5 as released
from transformers.utils.import_utils import is_flash_linear_attention_available

from minicpmv.models.attention.branches import Branches
from minicpmv.models.attention.varlen import Lengths, never_compiled

__all__ = ["LinearAttention"]

# Shape letters in this file
#   B rows    T tokens of a row    N tokens of all rows    D language width    C channels of query, key and value
#   H heads    K channels of a head

_Base = released.Qwen3_5GatedDeltaNet if TYPE_CHECKING else nn.Module


class LinearAttention(_Base):
    """Tells samples of packed rows apart; of other rows the released class knows all."""

    @property
    def read_directly(self) -> tuple[Tensor, ...]:
        """Weights that it reads without calling the module that has them, which ZeRO-3 has to be told."""
        return (self.conv1d.weight,)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, *args: Any, sequence_lengths: Lengths | None = None, **kwargs: Any
    ) -> Tensor:
        """
        Args:
            hidden_states: (B, T, D).
            args: The released class's.
            sequence_lengths: Tokens of each sample, row after row; they sum to B * T.
            kwargs: The released class's.
        """
        if sequence_lengths is None:
            return super().forward(hidden_states, *args, **kwargs)
        return self._run_packed(hidden_states, sequence_lengths)

    # Which samples there are is data.
    @never_compiled
    def _run_packed(self, hidden_BTD: Tensor, lengths: Lengths) -> Tensor:
        mixed_NC = self.in_proj_qkv(hidden_BTD).flatten(0, 1)
        beta_NH = self.in_proj_b(hidden_BTD).flatten(0, 1).sigmoid()
        step_NH = softplus(self.in_proj_a(hidden_BTD).flatten(0, 1).float() + self.dt_bias)
        decay_NH = -self.A_log.float().exp() * step_NH
        rows = lengths
        if isinstance(lengths, Branches):
            places, rows = lengths.key_places(hidden_BTD.device), lengths.keys
            mixed_NC, beta_NH, decay_NH = (each.index_select(0, places) for each in (mixed_NC, beta_NH, decay_NH))
        mixed_NC = self._convolve_apart(mixed_NC, rows)
        widths = [self.key_dim, self.key_dim, self.value_dim]
        heads = (self.head_k_dim, self.head_k_dim, self.head_v_dim)
        query, key, value = (
            each.unflatten(-1, (-1, width))[None]
            for each, width in zip(mixed_NC.split(widths, dim=-1), heads, strict=True)
        )
        carried = _carry((query, key, value, decay_NH[None], beta_NH[None]), rows)
        if isinstance(lengths, Branches):
            carried = carried.index_select(1, lengths.query_places(hidden_BTD.device))
        gate = self.in_proj_z(hidden_BTD).reshape(-1, self.head_v_dim)
        normed = self.norm(carried.reshape(-1, self.head_v_dim), gate)
        return self.out_proj(normed.view(*hidden_BTD.shape[:2], -1))

    def _convolve_apart(self, mixed_NC: Tensor, lengths: Lengths) -> Tensor:
        gap = self.conv_kernel_size - 1
        places_N = lengths.apart(gap, mixed_NC.device)
        apart = mixed_NC.new_zeros(len(mixed_NC) + gap * len(lengths), mixed_NC.shape[1])
        apart = apart.index_copy(0, places_N, mixed_NC)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        convolved = released.causal_conv1d_fn(apart.t()[None], weight, bias, activation=self.activation)
        return convolved[0].t().index_select(0, places_N)


def _carry(given: tuple[Tensor, ...], lengths: Lengths) -> Tensor:
    """Run the recurrence over samples that lie end to end, (1, N, H, K)."""
    if _has_kernel(given[0]):
        # fla asks the host for the offsets if it is not told them there.
        offsets = {
            "cu_seqlens": lengths.offsets(given[0].device),
            "cu_seqlens_cpu": lengths.offsets(torch.device("cpu")),
        }
        return _run_rule(given, **offsets)
    samples = zip(*(each.split(list(lengths), dim=1) for each in given), strict=True)
    return torch.cat([_run_rule(sample) for sample in samples], dim=1)


def _has_kernel(tensor: Tensor) -> bool:
    return tensor.is_cuda and is_flash_linear_attention_available()


def _run_rule(given: tuple[Tensor, ...], **offsets: Any) -> Tensor:
    query, key, value, decay, beta = given
    carried, _ = released.torch_chunk_gated_delta_rule(
        query, key, value, g=decay, beta=beta, output_final_state=False, use_qk_l2norm_in_kernel=True, **offsets
    )
    return carried
