"""Loading that fails unless every weight of the model is in the checkpoint, and every weight there in the model.

transformers only warns, and goes on with random weights. Here names and shapes are compared before the first weight is
read, so that a wrong directory costs a second, under ZeRO-3 as elsewhere. Nothing here knows how a release names its
weights (``checkpoint``) or what a file looks like inside (``weight_files``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors import SafetensorError
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from minicpmv.errors import CheckpointError
from minicpmv.models.checkpoints.carried import CarriesTensors, find_carried, is_carried, own_names
from minicpmv.models.checkpoints.end_tokens import complete_end_ids, find_end_ids, find_token_ids
from minicpmv.models.checkpoints.key_names import own_shapes, released_shapes
from minicpmv.models.checkpoints.weight_files import Shape, find_broken_file, read_shapes
from minicpmv.releases.model_files import check_model_files
from minicpmv.wording import list_few

__all__ = ["StrictLoading", "refuse_misfits"]

_Model = TypeVar("_Model", bound="StrictLoading")

# Old transformers saved these constants; transformers computes them anew and ignores them in a file, and so does this.
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Misfits:
    """How a checkpoint and a model differ, name by name; a shape may be unknown."""

    missing: Mapping[str, Shape | None]
    unexpected: Mapping[str, Shape | None]
    misshapen: Mapping[str, tuple[Shape, Shape]]
    """Shape found, shape expected."""

    def refuse(self, where: object, *, other_shapes_wanted: bool = False) -> None:
        """Raise if there are any.

        Args:
            where: The directory or name, for the message.
            other_shapes_wanted: Whether the caller has random weights made where a shape differs.

        Raises:
            CheckpointError: There is a misfit that the caller did not ask for.
        """
        # DeepSpeed's own loading stops at another shape on one rank and leaves the others waiting.
        may_differ = not is_deepspeed_zero3_enabled()
        groups = {
            "missing": [f"{name}{_written(shape)}" for name, shape in self.missing.items()],
            "unexpected": [f"{name}{_written(shape)}" for name, shape in self.unexpected.items()],
            "misshapen": [
                f"{name}: found{_written(found)}, expected{_written(expected)}"
                for name, (found, expected) in self.misshapen.items()
                if not (other_shapes_wanted and may_differ)
            ],
        }
        if any(groups.values()):
            counts = ", ".join(f"{len(lines)} {group}" for group, lines in groups.items() if lines)
            listed = "\n".join(f"  {group}:\n{_listed(lines)}" for group, lines in groups.items() if lines)
            raise CheckpointError(
                f"{where}: found weights that do not fit config.json ({counts}), expected each of the model's exactly "
                f"once and no others\n{listed}\n  fix: {self._fix()}"
            )

    def _fix(self) -> str:
        if any(".lora_" in name for name in self.unexpected):
            return "load the base model, and these weights as an adapter with PEFT"
        if self.missing and not self.unexpected and not self.misshapen:
            return "download or copy the checkpoint again, or save it again whole"
        return "use the config.json that was saved with these weights"


class StrictLoading(CarriesTensors):
    """Makes ``from_pretrained`` refuse a checkpoint that does not fit. Stands before ``PreTrainedModel`` as a base."""

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> _Model:
        """Load a directory, or a name on the hub, with every option that transformers has.

        Args:
            pretrained_model_name_or_path: The directory or name; None with ``config=`` and ``state_dict=``.
            model_args: Passed on.
            output_loading_info: Return the model and transformers' own account of the loading.
            kwargs: transformers' options. ``ignore_mismatched_sizes=True`` asks for random weights where a shape
                differs; such keys are then no fault, except under ZeRO-3, which cannot do it. ``trust_remote_code`` is
                accepted and changes nothing: no file of a checkpoint is ever executed, ``custom_generate`` included.

        Returns:
            The model in evaluation mode, in the precision that the config states unless ``dtype`` says otherwise. Its
            ``generate`` ends an answer where ``chat`` does, unless ``generation_config`` is given.

        Raises:
            CheckpointError: Keys are missing, unexpected or misshapen, all of them named together; or a weight file is
                missing or broken.
        """
        kwargs["trust_remote_code"] = False
        if pretrained_model_name_or_path is not None:
            folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
            if (folder / "config.json").is_file():
                check_model_files(folder)
        load = cast("Any", super()).from_pretrained
        try:
            loaded, report = load(pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            if pretrained_model_name_or_path is not None:
                find_broken_file(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
            raise
        # For loaders of transformers that do not come through _load_pretrained_model, and for adapters.
        missing, unexpected = (dict.fromkeys(sorted(report[f"{kind}_keys"])) for kind in ("missing", "unexpected"))
        unexpected = own_names(unexpected, loaded)
        _Misfits(missing, unexpected, {}).refuse(pretrained_model_name_or_path or "state_dict")
        if pretrained_model_name_or_path is not None and kwargs.get("generation_config") is None:
            _complete_generation(loaded, pretrained_model_name_or_path, kwargs)
        _keep_packing(loaded)
        return cast("Any", (loaded, report)) if output_loading_info else loaded

    @classmethod
    def _load_pretrained_model(
        cls,
        model: Any,
        state_dict: Mapping[str, Any] | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        expected_keys: list[str] | None = None,
    ) -> tuple[Any, Any]:
        """Compare, then load: transformers calls this with the finished, still empty model and the files' paths."""
        load = cast("Any", super())._load_pretrained_model
        if expected_keys is not None:  # an adapter's weights, loaded into a model that has its own already
            return load(model, state_dict, checkpoint_files, load_config, expected_keys)
        found = _shapes_of(state_dict) if state_dict is not None else read_shapes(checkpoint_files or [])
        prefixes = model.config.minicpmv_version.network.carried
        if state_dict is None:
            model.carried = find_carried(checkpoint_files or [], prefixes)
            model._keys_to_ignore_on_load_unexpected |= {f"^{re.escape(prefix)}" for prefix in prefixes}
        where = load_config.pretrained_model_name_or_path or "state_dict"
        wish = load_config.ignore_mismatched_sizes
        # A quantized file names other tensors than the model, and so may one with the caller's own key_mapping.
        as_released = load_config.hf_quantizer is None and (
            len(load_config.weight_mapping or []) == len(get_model_conversion_mapping(model))
        )
        if as_released:
            _compare(found, model).refuse(where, other_shapes_wanted=wish)
        info, offload_index = load(model, state_dict, checkpoint_files, load_config)
        if not as_released:
            _Misfits(
                dict.fromkeys(sorted(_without_tied(info.missing_keys, model))),
                dict.fromkeys(
                    sorted(
                        name
                        for name in info.unexpected_keys
                        if not (_COMPUTED.search(name) or is_carried(name, prefixes))
                    )
                ),
                {name: (was, expected) for name, was, expected in info.mismatched_keys},
            ).refuse(where, other_shapes_wanted=wish)
        return info, offload_index


def _keep_packing(model: Any) -> None:
    """Keep 4-bit layers as they were loaded, in training and when the model is asked, and all tensors their names.

    On a CPU bitsandbytes would pack them again as soon as they are asked in evaluation mode: not all widths allow that,
    and what is packed so is not trained on. That a file's weights were packed is for transformers a conversion without
    a way back, which names in the file would have to go; they are the model's own.
    """
    for module in cast("nn.Module", model).modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  torch's type of a module's attributes
    conversions = getattr(model, "_weight_conversions", None)
    if conversions and getattr(model, "hf_quantizer", None) is not None:
        model._weight_conversions = [each for each in conversions if _has_way_back(each)]


def _has_way_back(conversion: Any) -> bool:
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


def _complete_generation(model: Any, place: str | Path, options: Mapping[str, Any]) -> None:
    """Have ``generate`` stop where ``chat`` does, and let the config say which token holds an image's places.

    Trainers that sample suppress that token (TRL's GRPOTrainer); releases before 4.6 do not state it in the file.
    """
    version = model.config.minicpmv_version
    ends = find_end_ids(place, version, **options)
    model.generation_config.eos_token_id = complete_end_ids(model.generation_config.eos_token_id, ends)
    if getattr(model.config, "image_token_id", None) is None:
        slot = version.reading.markup.slot
        model.config.image_token_id = find_token_ids(place, [slot], **options).get(slot)


def refuse_misfits(found: Mapping[str, Shape], model: Any, where: object) -> None:
    """Raise unless a checkpoint's tensors are the model's own; the model may be on the ``meta`` device.

    Raises:
        CheckpointError: Keys are missing, unexpected or misshapen, all of them named together.
    """
    _compare(found, model).refuse(where)


def _compare(found: Mapping[str, Shape], model: Any) -> _Misfits:
    """Differences between a checkpoint's tensors and what the model saves, in the checkpoint's own names."""
    layouts = released_shapes(model), own_shapes(model)  # the second is what model.state_dict() gives
    found = own_names(found, model)
    expected = max(layouts, key=lambda layout: len(layout.keys() & found.keys()))
    missing = _without_tied(expected.keys() - found.keys(), model)
    return _Misfits(
        {name: shape for name, shape in expected.items() if name in missing},
        {name: shape for name, shape in found.items() if name not in expected and not _COMPUTED.search(name)},
        {
            name: (found[name], shape)
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != shape
        },
    )


def _without_tied(missing: Iterable[str], model: Any) -> set[str]:
    """The names among ``missing`` that are not one tensor with a weight that is there."""
    missing = set(missing)
    pairs = model.all_tied_weights_keys.items()
    tied = {name for pair in pairs for name, other in (pair, pair[::-1]) if other not in missing}
    return missing - tied


def _shapes_of(state_dict: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def _written(shape: Shape | None) -> str:
    return "" if shape is None else f" {list(shape)}"


def _listed(lines: list[str]) -> str:
    return list_few(lines, most=_MOST_SHOWN, indent="    ")
