"""Floating-point operations of training, from a model's sizes and what learns: arithmetic that needs no torch.

Counted is useful work: the multiplications and additions of matrix products and attention, forward and backward, that
a step cannot do without. Not counted are padding, what activation checkpointing computes a second time, and whatever
is no matrix product (norms, activations, softmax, DoRA's magnitudes), which is little. A backward pass computes the
gradient of a layer's weights only where they are trained, and that of its input only where something before it is. As
usual, causal attention counts like full attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from minicpmv.releases.row import Parts, find_code

__all__ = ["FlopWalk", "Work", "flops_of_each", "total_flops", "walk_patches", "walk_tower", "walk_tower_layer"]

_PEFT_PREFIX = "base_model.model."


class Work(NamedTuple):
    """What batches consist of, padding left out; or a number for one of each, such as operations."""

    tokens: int = 0
    token_pairs: int = 0
    """Sum of squared lengths of the samples, packed or not: which token may look at which."""
    labelled_tokens: int = 0
    """Only these are projected onto the vocabulary."""
    patches: int = 0
    """Seen by the tower; not those whose features are known from before."""
    patch_pairs: int = 0
    """Sum of squared patch counts of such slices. (2.5's tower attends padding as well, which is not counted.)"""
    resampled_patches: int = 0
    """Read by the resampler: those, and the others whose features are known if only the tower's are."""
    blocks: int = 0
    """Of image tokens that the resampler makes: one for each slice, or for each group of frames."""
    image_batches: int = 0
    """Batches in which the resampler runs: it projects its queries once in each."""


def flops_of_each(config: Any, parameters: Iterable[tuple[str, Any]]) -> Work:
    """Find the operations that one token, one pair of tokens, ... cost in a training step.

    Args:
        config: A ``MiniCPMVConfig``.
        parameters: ``model.named_parameters(remove_duplicate=False)`` of the model, bare or wrapped by PEFT, with all
            that learns switched on. Its weights may be on the meta device, or sharded.

    Returns:
        Floating-point operations, two for each multiplication with its addition.
    """
    walk = FlopWalk(parameters)
    network = config.minicpmv_version.network
    parts = network.parts
    seen = find_code(network.tower).count_flops(walk, parts.tower, config)
    seen = find_code(network.connector).count_flops(walk, parts.connector, config, seen)
    _walk_language_model(walk, parts, config.text_config, seen or walk.trains(parts.embeddings))
    return Work(**walk.flops)


def total_flops(of_each: Work, work: Work) -> int:
    """Add up the operations of some work."""
    return sum(cost * number for cost, number in zip(of_each, work, strict=True))


class FlopWalk:
    """Follows the network from input to loss, and adds up what each operation costs.

    Of every intermediate result it is only known whether a gradient with respect to it is needed (``grad``).
    """

    def __init__(self, parameters: Iterable[tuple[str, Any]]) -> None:
        self.flops = dict.fromkeys(Work._fields, 0)
        self._trained: set[str] = set()  # parameters, and all modules around them
        self._ranks: dict[str, int] = {}
        for name, parameter in parameters:
            if not parameter.requires_grad or ".original_module." in name:
                continue
            bare = name.removeprefix(_PEFT_PREFIX).replace(".modules_to_save.default", "").replace(".base_layer", "")
            if ".lora_A." in bare:
                shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty shell
                self._ranks[bare.partition(".lora_A.")[0]] = int(shape[0])
            pieces = bare.split(".")
            self._trained.update(".".join(pieces[:end]) for end in range(1, len(pieces) + 1))

    def trains(self, name: str) -> bool:
        """Whether a parameter, or anything in a module, is trained."""
        return name in self._trained

    def linear(
        self, name: str, width_in: int, width_out: int, *, grad: bool, unit: str, times: int = 1, of: int = 1,
        weight: str = "",
    ) -> bool:  # fmt: skip
        """Multiply ``times`` rows for each ``of`` units by a weight; return whether the result needs a gradient."""
        products = 1 + grad + self.trains(weight or f"{name}.weight")
        flops = width_in * width_out * products
        rank = self._ranks.get(name, 0)
        # Two products more, the second of which always has something trained before it.
        flops += rank * (width_in * (2 + grad) + width_out * 3)
        self.flops[unit] += 2 * flops * times // of
        return grad or self.trains(weight or name)

    def attention(self, width: int, *, grads: tuple[bool, bool, bool], unit: str, times: int = 1, of: int = 1) -> bool:
        """Let a query look at a key, ``times`` for each ``of`` units; ``grads`` are those of query, key and value."""
        query, key, value = grads
        backward = (query or key) + query + key + value  # of the weights, and of each that needs one
        self.flops[unit] += 2 * width * (2 + backward) * times // of
        return query or key or value


def walk_tower(walk: FlopWalk, tower: str, config: Any, layers: Iterable[int] | None = None) -> bool:
    """Follow patches through a SigLIP tower, whole without ``layers``; return whether the result needs a gradient."""
    grad = walk_patches(walk, tower, config)
    for layer in range(config.num_hidden_layers) if layers is None else layers:
        grad = walk_tower_layer(walk, f"{tower}.encoder.layers.{layer}", config, grad)
    return grad or walk.trains(f"{tower}.post_layernorm")


def walk_patches(walk: FlopWalk, tower: str, config: Any) -> bool:
    """Embed patches and their positions."""
    width, side = config.hidden_size, config.patch_size
    grad = walk.linear(f"{tower}.embeddings.patch_embedding", 3 * side**2, width, grad=False, unit="patches")
    return grad or walk.trains(f"{tower}.embeddings.position_embedding")


def walk_tower_layer(walk: FlopWalk, name: str, config: Any, grad: bool, *, of: int = 1) -> bool:
    """Follow what is left of so many patches each through a layer of a tower."""
    width = config.hidden_size
    normed = grad or walk.trains(f"{name}.layer_norm1")
    query, key, value = (
        walk.linear(f"{name}.self_attn.{each}_proj", width, width, grad=normed, unit="patches", of=of) for each in "qkv"
    )
    attended = walk.attention(width, grads=(query, key, value), unit="patch_pairs", of=of**2)
    grad |= walk.linear(f"{name}.self_attn.out_proj", width, width, grad=attended, unit="patches", of=of)
    grad |= walk.trains(f"{name}.layer_norm2")
    inner = walk.linear(f"{name}.mlp.fc1", width, config.intermediate_size, grad=grad, unit="patches", of=of)
    return grad | walk.linear(f"{name}.mlp.fc2", config.intermediate_size, width, grad=inner, unit="patches", of=of)


def _walk_language_model(walk: FlopWalk, parts: Parts, config: Any, grad: bool) -> None:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    for layer, kind in enumerate(kinds):
        name = f"{parts.layers}.{layer}"
        normed = grad or walk.trains(f"{name}.input_layernorm")
        mix = _walk_state if kind == "linear_attention" else _walk_attention
        grad |= mix(walk, name, config, normed)
        grad |= walk.trains(f"{name}.post_attention_layernorm")
        grad |= _walk_feed_forward(walk, f"{name}.mlp", config, grad)
    grad = grad or walk.trains(f"{parts.body}.norm")
    walk.linear(parts.head, config.hidden_size, config.vocab_size, grad=grad, unit="labelled_tokens")


def _walk_attention(walk: FlopWalk, name: str, config: Any, grad: bool) -> bool:
    width, num_heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // num_heads
    is_hybrid = "linear_attention" in (getattr(config, "layer_types", None) or ())
    asked = num_heads * head * (1 + is_hybrid)  # with a gate for each channel of a query
    outputs = {"q": asked, "k": config.num_key_value_heads * head, "v": config.num_key_value_heads * head}
    query, key, value = (
        walk.linear(f"{name}.self_attn.{each}_proj", width, output, grad=grad, unit="tokens")
        or walk.trains(f"{name}.self_attn.{each}_norm")  # Qwen3
        for each, output in outputs.items()
    )
    attended = walk.attention(num_heads * head, grads=(query, key, value), unit="token_pairs")
    return walk.linear(f"{name}.self_attn.o_proj", num_heads * head, width, grad=attended, unit="tokens")


def _walk_state(walk: FlopWalk, name: str, config: Any, grad: bool) -> bool:
    """A token reads from a state of keys x values twice, and writes to it once."""
    name, width = f"{name}.linear_attn", config.hidden_size
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    outputs = {
        "qkv": 2 * keys + values,
        "z": values,
        "b": config.linear_num_value_heads,
        "a": config.linear_num_value_heads,
    }
    learns = [
        walk.linear(f"{name}.in_proj_{each}", width, output, grad=grad, unit="tokens")
        for each, output in outputs.items()
    ]
    mixed = any(learns) or any(walk.trains(f"{name}.{each}") for each in ("conv1d", "A_log", "dt_bias"))
    walk.attention(values, grads=(mixed, mixed, mixed), unit="tokens", times=3 * config.linear_key_head_dim, of=2)
    return walk.linear(f"{name}.out_proj", values, width, grad=mixed or walk.trains(f"{name}.norm"), unit="tokens")


def _walk_feed_forward(walk: FlopWalk, name: str, config: Any, grad: bool) -> bool:
    width, experts = config.hidden_size, getattr(config, "num_experts", 0)
    if not experts:
        return _walk_gated(walk, name, width, config.intermediate_size, grad)
    walk.linear(f"{name}.gate", width, experts, grad=grad, unit="tokens")
    _walk_gated(walk, f"{name}.shared_expert", width, config.shared_expert_intermediate_size, grad)
    inner, chosen = config.moe_intermediate_size, config.num_experts_per_tok
    for weight, width_out in (("gate_up_proj", 2 * inner), ("down_proj", inner)):
        place = f"{name}.experts.{weight}"
        walk.linear(place, width, width_out, grad=grad, unit="tokens", times=chosen, weight=place)
    return grad or walk.trains(name)


def _walk_gated(walk: FlopWalk, name: str, width: int, inner: int, grad: bool) -> bool:
    gate, up = (walk.linear(f"{name}.{each}_proj", width, inner, grad=grad, unit="tokens") for each in ("gate", "up"))
    return walk.linear(f"{name}.down_proj", inner, width, grad=gate or up, unit="tokens")
