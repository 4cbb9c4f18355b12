"""Whatever the flags, what they name changes and nothing else does; and LoRA starts where the base model is."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import PART_FLAGS, choose_trained_parts, part_of, parts_of
from minicpmv.training.learning.switches import resolve_learning
from tests.run.training import make_data
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_SWITCHES = list(PART_FLAGS.values())
_FULL = [
    dict(zip(_SWITCHES, values, strict=True)) for values in itertools.product((True, False), repeat=5) if any(values)
]
_BESIDE_LORA = [dict(zip(_SWITCHES[:4], values, strict=True)) for values in itertools.product((True, False), repeat=4)]
_LORA_KINDS = {
    "all-linear": "--lora_target_modules all-linear",
    "every tower": "--lora_target_modules attention,vision-all-linear,resampler",
    "a regular expression": r"--lora_target_modules (llm|vpm)\..*\.q_proj --tune_resampler false",
    "one layer": "--lora_target_modules all-linear --lora_layers_to_transform 1 --tune_vision false",
    "with its biases": "--lora_bias lora_only --lora_modules_to_save none",
    "with all biases": "--lora_bias all --tune_vision false",
    "rank-stabilised": "--use_rslora",
    "weight-decomposed": "--use_dora --lora_target_modules attention,vision-attention",
    "gaussian": "--init_lora_weights gaussian",
    "principal": "--init_lora_weights pissa --lora_modules_to_save resampler",
    "orthonormal": "--init_lora_weights olora --lora_target_modules attention,vision-attention",
}


@pytest.fixture(scope="module")
def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(FIXTURES / "v2_6", dtype=torch.float32)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    data = make_data(tmp_path_factory.mktemp("data"), num_records=3)
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    dataset = ConversationDataset(load_records(data), processor, max_length=2048)
    return Collator(0)([dataset[index] for index in range(3)])


def settled(base: Any, flags: str) -> RunArguments:
    needed = "--model_name_or_path m --data_path d --output_dir o"
    request = parse_arguments([*needed.split(), *flags.split()])
    return resolve_learning(request.run, base, given=request.given)[0]


def train(model: Any, batch: Mapping[str, Tensor]) -> None:
    """Two steps: in the first only one of LoRA's two matrices can move, because the other is zero."""
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3, weight_decay=0)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        # Several processes wait for ever for a gradient that never comes.
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()


def unchanged(model: Any, before: Mapping[str, Tensor], names: Iterable[str]) -> set[str]:
    tensors = model.state_dict()
    return {name for name in names if torch.equal(tensors[name], before[name])}


def bare(name: str) -> str:
    for piece in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(piece, "")
    return name.removeprefix("base_model.model.")


@pytest.mark.parametrize("wish", _FULL, ids=lambda wish: "+".join(name for name in wish if wish[name]))
def test_full_training_changes_the_chosen_parts_and_no_others(wish: dict[str, bool], base: Any, batch) -> None:
    run = settled(base, " ".join(f"--{name} {value}" for name, value in wish.items()))
    model = copy.deepcopy(base)
    choose_trained_parts(model, run)
    train(model, batch)
    before = base.state_dict()
    frozen = {name for name in before if not wish[PART_FLAGS[part_of(name, parts_of(base))]]}
    assert unchanged(model, before, before) == frozen


def check_lora(base: Any, batch: Mapping[str, Tensor], flags: str, *, full: set[str]) -> None:
    """Train with LoRA; ``full`` names the parts that must change themselves."""
    run = settled(base, f"--use_lora --lora_r 4 {flags}")
    torch.manual_seed(0)
    model: Any = add_lora(copy.deepcopy(base), run, keep_dtype=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        # Measured: 4e-5 where a part was taken out of the base, since LoRA puts it back by another sum; else 0.
        tolerance = 2e-4 if run.changes_base else 0
        torch.testing.assert_close(model.eval()(**inputs).logits, base(**inputs).logits, atol=tolerance, rtol=0)
    train(model, batch)
    moved = before.keys() - unchanged(model, before, before)
    biases = {"none": r"(?!)", "lora_only": r"llm\..*self_attn\.[qkv]_proj\.bias", "all": r".*bias"}[run.lora_bias]
    for name in before:
        if ".lora_" in name or ".modules_to_save." in name:
            assert name in moved, name
        else:
            learns = re.fullmatch(biases, bare(name)) and ".original_module." not in name
            assert (name in moved) == bool(learns), name
    trained = {part_of(name, parts_of(base)) for name in moved if ".modules_to_save." in name}
    assert trained == full
    original = base.state_dict()
    if not run.changes_base:
        frozen = {name: tensor for name, tensor in model.state_dict().items() if name not in moved}
        assert all(torch.equal(tensor, original[bare(name)]) for name, tensor in frozen.items())


@pytest.mark.parametrize("wish", _BESIDE_LORA, ids=lambda wish: "+".join(name for name in wish if wish[name]) or "none")
def test_beside_lora_the_chosen_parts_change_and_no_others(wish: dict[str, bool], base: Any, batch) -> None:
    full = {part for part, name in PART_FLAGS.items() if wish.get(name)}
    check_lora(base, batch, " ".join(f"--{name} {value}" for name, value in wish.items()), full=full)


@pytest.mark.parametrize("kind", _LORA_KINDS)
def test_every_kind_of_lora_changes_its_own_tensors_only(kind: str, base: Any, batch) -> None:
    flags = _LORA_KINDS[kind]
    run = settled(base, f"--use_lora {flags}")
    check_lora(base, batch, flags, full={part for part, name in PART_FLAGS.items() if getattr(run, name)})
