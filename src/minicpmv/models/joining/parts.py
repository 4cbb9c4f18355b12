"""Finds the parts of a network by the release's row, so that nobody else knows how one names its modules."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from minicpmv.models.attention.packed_rows import prefer_packed_attention
from minicpmv.releases.row import Parts

__all__ = ["HasParts"]

_Base = PreTrainedModel if TYPE_CHECKING else object


def _module_at(model: nn.Module, place: str) -> Any:
    """Return the module of a full name."""
    return reduce(getattr, place.split("."), model)


def _put_at(model: nn.Module, place: str, value: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(_module_at(model, parent) if parent else model, name, value)


class HasParts(_Base):
    """A model whose config knows the release. Stands before ``PreTrainedModel`` among the bases."""

    config: Any
    _body: str
    _head: str

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

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of modules that nothing reads as the config is: what belongs to them never gets a gradient."""
        return ()

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Override transformers: after the choice, keep the kernel that knows packed rows where there is one."""
        super().set_attn_implementation(*args, **kwargs)
        prefer_packed_attention(self.config.text_config)

    def get_input_embeddings(self) -> nn.Module:
        """Override transformers: the token embeddings are those of the language model."""
        return _module_at(self, self.parts.embeddings)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Override transformers: set the token embeddings of the language model."""
        _put_at(self, self.parts.embeddings, value)

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
        return _module_at(self, self.parts.head)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Override transformers: set the head of the language model."""
        _put_at(self, self.parts.head, new_embeddings)
