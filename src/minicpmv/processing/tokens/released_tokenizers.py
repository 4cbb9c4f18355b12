"""The released tokenizers, under the class names that their ``tokenizer_config.json`` states.

Thin: the work is transformers' own. What they add is reading and decoding by MiniCPM-V-2's ``tokenizer.model`` rightly,
not losing "!" when decoding 2.5, and saving files that the released code reads as well. The released ``.py`` files are
never needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sentencepiece import SentencePieceProcessor
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from minicpmv.errors import CheckpointError
from minicpmv.processing.tokens.split_patterns import check_patterns
from minicpmv.processing.tokens.vocabulary import is_control_token
from minicpmv.releases.json_bounds import quote
from minicpmv.releases.model_files import naming_faults, read_object

__all__ = ["LlamaTokenizerWrapper", "MiniCPMOTokenizerFast", "MiniCPMVTokenizerFast", "NativeTokenizer"]

# What transformers 5 writes about the machine that saved, and its new name of a released field.
_TRANSFORMERS_OWN = (
    "backend",
    "is_local",
    "local_files_only",
    "extra_special_tokens",
    "model_specific_special_tokens",
    "files_loaded",
)
_FIX = "use the tokenizer that belongs to the weights; download or copy its files again"
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_UNSAVED = ("legacy", "add_bos_token", "add_eos_token")  # what transformers 5 reads and does not write

# The base is only stated for type checking: at run time the mixin stands before either of two tokenizer classes.
_Base = PreTrainedTokenizerFast if TYPE_CHECKING else object


class _ReleasedLayout(_Base):
    """Saves and decodes as the released tokenizers should."""

    _released: Mapping[str, Any] = MappingProxyType({})
    """Fields of the file it was loaded from, which are written again as they were."""
    _template_has_a_file: ClassVar[bool] = False
    """Whether the chat template stands in ``chat_template.jinja``."""
    _class_in_file: str | None = None
    """What the file calls the tokenizer's class, where that is not ours."""

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, str | None], *args: Any, **kwargs: Any) -> Any:
        path = resolved_vocab_files.get("tokenizer_config_file")
        stated = read_object(Path(path), expected="a tokenizer's settings", fix=_FIX) if path else {}
        where = Path(path).parent if path else "tokenizer"
        with naming_faults(where, expected="the files of a tokenizer", fix=_FIX), _naming_errors_of_tokenizers(where):
            tokenizer = super()._from_pretrained(resolved_vocab_files, *args, **kwargs)
            check_patterns(tokenizer.backend_tokenizer, where)
        kept = (*_UNSAVED, "extra_special_tokens", "padding_side")
        if tokenizer._class_in_file is not None:
            tokenizer._class_in_file = stated.get("tokenizer_class") or tokenizer._class_in_file
        tokenizer._released = {key: stated[key] for key in kept if key in stated}
        return tokenizer

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save in the released layout: chat template and added tokens inside ``tokenizer_config.json``."""
        kwargs.setdefault("save_jinja_files", self._template_has_a_file)
        files = super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        named_by_model: Any = self._released.get("extra_special_tokens")
        for key in (*_TRANSFORMERS_OWN, *(named_by_model if isinstance(named_by_model, dict) else ())):
            config.pop(key, None)
        added = sorted(self.added_tokens_decoder.items())
        config["added_tokens_decoder"] = {
            str(index): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for index, token in added
            if index != self.pad_token_id or is_control_token(token.content)
        }
        named = {key: str(getattr(self, key)) for key in _NAMED if getattr(self, key) is not None}
        additional = [str(token) for token in cast("list[str]", self.extra_special_tokens)]
        if additional:
            config["additional_special_tokens"] = additional
        config |= {key: self.init_kwargs[key] for key in _UNSAVED if key in self.init_kwargs}
        config |= self._released
        config["tokenizer_class"] = self._class_in_file or type(self).__name__
        _write_json(path, config)
        if self._class_in_file is None:  # the files of later releases say it in tokenizer_config.json alone
            more = {"additional_special_tokens": additional} if additional else {}
            _write_json(folder / "special_tokens_map.json", named | more)
        return files

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        # 2.5 declares "!" as its padding token. Skipped like the control tokens, every "!" of an answer would be lost.
        if skip_special_tokens and self.pad_token is not None and not is_control_token(str(self.pad_token)):
            ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
            skipped = {index for index, token in self.added_tokens_decoder.items() if token.special}
            skipped.discard(cast("int", self.pad_token_id))
            token_ids, skip_special_tokens = [index for index in ids if index not in skipped], False
        return super()._decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces, **kwargs)


class _naming_errors_of_tokenizers:
    """Words errors of the package ``tokenizers``, which has no class of its own for them: it raises bare
    ``Exception``.
    """

    def __init__(self, where: object) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            said = quote(str(error))[1:-1]
            raise CheckpointError(
                f"{self._where}: found what no tokenizer can be made of ({said}), expected the files of a tokenizer\n"
                f"  fix: {_FIX}"
            ) from error


class MiniCPMVTokenizerFast(_ReleasedLayout, PreTrainedTokenizerFast):
    """Tokenizer of 2.5 and later: ``tokenizer.json`` as it stands."""


class MiniCPMOTokenizerFast(MiniCPMVTokenizerFast):
    """Tokenizer of the MiniCPM-o releases, the same under another name."""


class NativeTokenizer(_ReleasedLayout, PreTrainedTokenizerFast):
    """Tokenizer of 4.6 and later: ``tokenizer.json`` as it stands. Its files name a class of transformers'."""

    _template_has_a_file: ClassVar[bool] = True
    _class_in_file: str | None = "TokenizersBackend"


class LlamaTokenizerWrapper(_ReleasedLayout, LlamaTokenizer):
    """Tokenizer of MiniCPM-V-2: the sentencepiece model ``tokenizer.model``.

    Only that file is read. A ``tokenizer.json`` beside it is what an old converter made of it, with a space before
    every text, which neither the released code nor this class has.

    Raises:
        CheckpointError: There is no ``tokenizer.model``.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["add_prefix_space"] = False
        # As released. transformers drops both from the config when it sees a tokenizer.json.
        kwargs.setdefault("add_bos_token", True)
        kwargs.setdefault("add_eos_token", False)
        vocab_file = kwargs.get("vocab_file")
        if vocab_file is None or not Path(vocab_file).is_file():
            raise CheckpointError(
                f"tokenizer: found {vocab_file or 'no tokenizer.model'}, expected MiniCPM-V-2's tokenizer.model\n"
                "  fix: add that file to the model directory"
            )
        # Kept, so that saving works after the directory it came from is gone.
        self._model_bytes = Path(vocab_file).read_bytes()
        self._sentencepiece = SentencePieceProcessor(model_proto=self._model_bytes)
        super().__init__(*args, **kwargs)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Override transformers: never read a ``tokenizer.json`` that lies beside ``tokenizer.model``."""
        # transformers looks for tokenizer.json whether vocab_files_names lists it or not.
        kwargs.pop("tokenizer_file", None)
        return super().convert_to_native_format(trust_remote_code, **kwargs)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        # By sentencepiece, as released. Where a character's bytes are incomplete, the fast decoder gives up all bytes
        # around them, whole letters among them; sentencepiece only those that are no character.
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        added = self.added_tokens_decoder
        texts: list[str] = []
        for is_added, group in groupby(ids, key=added.__contains__):
            if not is_added:
                texts.append(self._sentencepiece.decode(list(group)))
                continue
            tokens = [added[index] for index in group]
            texts += [token.content for token in tokens if not (skip_special_tokens and token.special)]
        return "".join(texts)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save with ``tokenizer.model``, which is the file that counts."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        model = Path(save_directory) / "tokenizer.model"
        model.write_bytes(self._model_bytes)
        return (*files, str(model))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
