from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from minicpmv.errors import UsageError
from minicpmv.models.skeleton import build_skeleton
from minicpmv.releases.row import Parts
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.lora import modules_to_save, wanted_targets
from minicpmv.training.learning.parts import parts_of
from minicpmv.training.learning.switches import resolve_learning
from tests.tiny import FIXTURES

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]
_SWITCHES = ("tune_llm", "tune_embeddings", "tune_output_head", "tune_resampler", "tune_vision")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_skeleton(FIXTURES / "v2_6")


def settle(flags: str, model: nn.Module) -> RunArguments:
    request = parse_arguments([*NEEDED, *flags.split()])
    return resolve_learning(request.run, model, given=request.given)[0]


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ("", "llm embeddings output_head resampler vision"),
        ("--tune_llm false", "resampler vision"),
        ("--tune_llm false --tune_embeddings true", "embeddings resampler vision"),
        ("--tune_embeddings false", "llm output_head resampler vision"),
        ("--tune_resampler false --tune_vision false", "llm embeddings output_head"),
        ("--use_lora", "embeddings resampler vision"),
        ("--use_lora --tune_vision false", "embeddings resampler"),
        ("--use_lora --tune_embeddings false --tune_output_head true", "output_head resampler vision"),
        ("--use_lora --lora_target_modules vision-attention", "embeddings resampler"),
        ("--use_lora --lora_target_modules attention,resampler", "embeddings vision"),
        (r"--use_lora --lora_target_modules vpm\..*fc1", "embeddings resampler"),
        ("--use_lora --lora_modules_to_save none", ""),
        ("--use_lora --lora_modules_to_save resampler,lm_head", "output_head resampler"),
    ],
)
def test_switches_left_open_are_settled(flags: str, trained: str, model: nn.Module) -> None:
    run = settle(flags, model)
    assert {name for name in _SWITCHES if getattr(run, name)} == {f"tune_{word}" for word in trained.split()}


def test_switches_and_names_say_the_same_to_peft(model: nn.Module) -> None:
    assert modules_to_save(settle("--use_lora --tune_output_head", model), Parts()) == [
        "embed_tokens",
        "resampler",
        "vpm",
        "lm_head",
    ]
    assert modules_to_save(settle("--use_lora --lora_modules_to_save lm_head,norm", model), Parts()) == [
        "lm_head",
        "norm",
    ]


@pytest.mark.parametrize(
    ("target", "hits", "prefixes"),
    [
        (r"llm\..*layers\.1\.self_attn\.q_proj", 1, {"llm"}),
        ("q_proj,v_proj", 4, {"llm"}),  # those of the language model, although the tower has some, too
        ("attention", 8, {"llm"}),
        ("all-linear", 14, {"llm"}),
        ("vision-attention", 8, {"vpm"}),
        ("vision-all-linear", 12, {"vpm"}),
        ("resampler", 1, {"resampler"}),
        ("attention,vision-attention, resampler", 17, {"llm", "vpm", "resampler"}),
        ("up_proj,vision-attention", 10, {"llm", "vpm"}),
        (r"(llm|vpm)\..*\.k_proj", 4, {"llm", "vpm"}),
        (r".*\.lm_head", 1, {"llm"}),
    ],
)
def test_words_and_expressions_name_modules(target: str, hits: int, prefixes: set[str], model: nn.Module) -> None:
    names = wanted_targets(model, RunArguments(lora_target_modules=target))
    assert len(names) == hits
    assert {name.partition(".")[0] for name in names} == prefixes


def test_presets_name_linear_layers_in_every_release() -> None:
    every = "all-linear,vision-all-linear,resampler"
    for folder in sorted(FIXTURES.glob("v*")):
        model: Any = build_skeleton(folder)
        names = wanted_targets(model, RunArguments(lora_target_modules=every))
        is_native = bool(model.config.minicpmv_version.network.never_packed)
        # 4.6 and 4.7: three layers of linear and one of full attention, and a merger inside the tower of three layers.
        assert len(names) == (3 * (3 + 3) + 7 + 3 * 6 + 6 + 2 if is_native else 2 * 7 + 2 * 6 + 1)


def test_layers_are_picked_by_number(model: nn.Module) -> None:
    names = wanted_targets(model, RunArguments(lora_target_modules="q_proj", lora_layers_to_transform=[1]))
    assert names == ["llm.model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (r"--lora_target_modules language_model\..*q_proj", "names like llm.model.layers.0.self_attn.q_proj"),
        ("--lora_target_modules llm.(", "no regular expression"),
        ("--lora_target_modules qproj", "matches no module"),
        (
            "--lora_target_modules attention,q_prj",
            "q_prj, which matches no module of this model, expected one that does\n  fix: did you mean q_proj?",
        ),
        (r"--lora_target_modules llm\..*self_attn", "a Qwen2Attention, expected linear layers only"),
        (r"--lora_target_modules .*embed_tokens", "a Embedding, expected linear layers only"),
        (r"--lora_target_modules resampler\.attn", "a CrossAttention, expected linear layers only"),
        (r"--lora_target_modules .*\.q_proj --tune_vision true", "already trained fully as vpm"),
        ("--lora_target_modules vision-attention --lora_modules_to_save vpm", "already trained fully as vpm"),
        ("--lora_target_modules attention --lora_layers_to_transform 1 2", "--lora_layers_to_transform: found 2"),
        ("--lora_modules_to_save vit", "'vit', which names no module"),
        ("--tune_vision true --lora_modules_to_save resampler", "--tune_vision true --lora_modules_to_save resampler"),
        ("--tune_output_head --lora_modules_to_save none", "--tune_output_head true --lora_modules_to_save none"),
        ("--lora_weight_path nowhere", "found no adapter_config.json in 'nowhere'"),
        (
            "--vision_lr 1e-5 --tune_vision false",
            "--vision_lr: found 1e-05, which nothing reads, expected a part that learns",
        ),
        ("--embeddings_lr 1e-5 --tune_embeddings false", "--embeddings_lr: found"),
        ("--resampler_weight_decay 0 --lora_modules_to_save none", "--resampler_weight_decay: found 0"),
        (
            "--lora_lr 1e-5 --lora_target_modules vision-attention --vision_lr 1e-5",
            "--lora_lr: found 1e-05, which nothing reads, expected a LoRA module without a value of its part's own",
        ),
        ("--q_lora --lora_modules_to_save mlp", "llm.model.layers.0.mlp to be trained fully, expected it frozen"),
    ],
)
def test_fault_in_what_lora_learns_is_explained(flags: str, message: str, model: nn.Module) -> None:
    with pytest.raises(UsageError) as caught:
        settle(f"--use_lora {flags}", model)
    assert message in str(caught.value)


def test_nothing_to_learn_is_an_error(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="found all of them false, so nothing would learn"):
        settle("--tune_llm false --tune_vision false --tune_resampler false", model)


def test_rate_of_a_part_that_carries_lora_is_used(model: nn.Module) -> None:
    settle("--use_lora --lora_target_modules vision-attention --vision_lr 1e-5", model)


def test_layer_that_other_code_reads_past_lora_gets_a_notice(model: nn.Module) -> None:
    request = parse_arguments([*NEEDED, "--use_lora", "--lora_target_modules", r"resampler\..*_proj"])
    _, (notice,) = resolve_learning(request.run, model, given=request.given)
    assert "resampler.attn.out_proj works here" in notice


class Tied(nn.Module):
    """The names of a model whose head has its weights in common with the embeddings."""

    all_tied_weights_keys = {"llm.lm_head.weight": "llm.model.embed_tokens.weight"}

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.llm, self.vpm, self.resampler = model.llm, model.vpm, model.resampler
        self.config = model.config


@pytest.mark.parametrize(
    ("flags", "head"),
    [("", True), ("--tune_embeddings false", False), ("--use_lora", False), ("--tune_llm false", False)],
)
def test_tied_head_goes_with_the_embeddings(flags: str, head: bool, model: nn.Module) -> None:
    assert settle(flags, Tied(model)).tune_output_head is head


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--tune_output_head false", "has its weights in common with the token embeddings"),
        ("--tune_embeddings false --tune_output_head true", "has its weights in common with the token embeddings"),
        ("--use_lora --tune_output_head true", "output head that this model has in common with its token embeddings"),
        ("--use_lora --tune_embeddings true", "token embeddings that this model has in common with its output head"),
        ("--use_lora --lora_modules_to_save embed_tokens", "PEFT would train a copy"),
    ],
)
def test_tied_head_cannot_differ_from_the_embeddings(flags: str, told: str, model: nn.Module) -> None:
    with pytest.raises(UsageError, match=told):
        settle(flags, Tied(model))


@pytest.mark.parametrize(
    ("flags", "trained", "is_told"),
    [
        ("--use_lora", "resampler vision", True),
        ("--use_lora --lora_preset official", "resampler vision", True),
        ("--use_lora --tune_embeddings false", "resampler vision", False),
        ("--use_lora --lora_preset adapters_only", "", False),
        ("--use_lora --lora_modules_to_save none", "", False),
    ],
)
def test_tied_embeddings_stay_frozen_beside_lora(flags: str, trained: str, is_told: bool, model: nn.Module) -> None:
    request = parse_arguments([*NEEDED, *flags.split()])
    run, notices = resolve_learning(request.run, Tied(model), given=request.given)
    assert {name for name in _SWITCHES if getattr(run, name)} == {f"tune_{word}" for word in trained.split()}
    assert any("--tune_embeddings: false" in notice for notice in notices) is is_told


@pytest.mark.parametrize("folder", ["v2_6", "v4_7"])
def test_a_switch_and_a_list_of_modules_must_agree(folder: str) -> None:
    """Each release has its own names of modules."""
    model = build_skeleton(FIXTURES / folder)
    parts = parts_of(model)
    tower = parts.tower.rpartition(".")[2]
    assert settle(f"--use_lora --lora_modules_to_save {tower} --tune_vision true", model).tune_vision
    with pytest.raises(UsageError, match=f"expected them to agree on {tower}\n  fix: remove --tune_vision"):
        settle(f"--use_lora --lora_modules_to_save {tower} --tune_vision false", model)


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    content: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "bias": "none"}
    content |= {"target_modules": r"llm\..*\.q_proj", "modules_to_save": ["resampler"], "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    return str(tmp_path)


def test_going_on_from_an_adapter_takes_over_what_it_settled(adapter: str, model: nn.Module) -> None:
    run = settle(f"--use_lora --lora_weight_path {adapter}", model)
    assert (run.lora_r, run.lora_alpha, run.use_rslora, run.lora_dropout) == (8, 16, True, 0.1)
    assert [name for name in _SWITCHES if getattr(run, name)] == ["tune_resampler"]


def test_flags_that_agree_with_the_adapter_are_accepted(adapter: str, model: nn.Module) -> None:
    settle(rf"--use_lora --lora_weight_path {adapter} --lora_r 8 --tune_vision false --tune_llm false", model)
    settle(rf"--use_lora --lora_weight_path {adapter} --lora_target_modules llm\..*\.q_proj", model)


def test_dropout_is_no_part_of_an_adapter(adapter: str, model: nn.Module) -> None:
    assert settle(f"--use_lora --lora_weight_path {adapter} --lora_dropout 0.3", model).lora_dropout == 0.3
    assert settle(f"--use_lora --lora_weight_path {adapter} --lora_dropout 0", model).lora_dropout == 0


@pytest.mark.parametrize(
    "flags", ["--lora_r 64", "--tune_vision true", "--lora_target_modules attention", "--use_dora true"]
)
def test_flags_that_contradict_the_adapter_are_refused(flags: str, adapter: str, model: nn.Module) -> None:
    with pytest.raises(UsageError, match=f"^{flags.split()[0]}: found with --lora_weight_path"):
        settle(f"--use_lora --lora_weight_path {adapter} {flags}", model)
