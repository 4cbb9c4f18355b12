"""Several adapters on one base answer as each of them does alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.inference.loading import load_model
from minicpmv.serving.answers.served_models import name_models, serve_models
from tests.tiny import FIXTURES, picture
from tests.unit.models.adapters.test_attaching import base, make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = FIXTURES / "v2_6"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with a resampler of its own, and one with LoRA elsewhere and nothing beside it."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    other = folder / "other"
    wrapped: Any = get_peft_model(
        base("v2_6"), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=r"llm\..*\.o_proj")
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(str(other))
    whole = make_adapter(folder / "whole", "v2_6")
    weights = whole / "adapter_model.safetensors"
    changed = {name: tensor * 1.1 if "resampler" in name else tensor for name, tensor in load_file(weights).items()}
    save_file(changed, weights)
    return {"whole": whole, "other": other}


def scores(loaded: Any) -> Tensor:
    messages = [{"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "What?"}]}]
    with torch.no_grad():
        return loaded.model(**loaded.processor.apply_chat_template(messages)).logits[0, -1]


@pytest.mark.parametrize("order", [("whole", "other"), ("other", "whole")])
def test_each_name_answers_as_its_adapter_alone(adapters: dict[str, Path], order: tuple[str, str]) -> None:
    base_path, paths = name_models(str(MODEL), [f"{name}.v1={adapters[name]}" for name in order], "plain")
    served = serve_models(load_model(base_path), paths)
    alone = {f"{name}.v1": scores(load_model(path)) for name, path in adapters.items()}
    alone["plain"] = scores(load_model(MODEL))
    assert list(served.adapters) == ["plain", *(f"{name}.v1" for name in order)]
    for name in (*served.adapters, *sorted(served.adapters)):
        with served.answering_as(name):
            assert torch.equal(scores(served.loaded), alone[name]), name
    assert len({tuple(values.tolist()) for values in alone.values()}) == 3


def test_an_adapter_is_served_beside_its_base(adapters: dict[str, Path]) -> None:
    path = str(adapters["whole"])
    assert name_models(path, [], None) == (str(MODEL), {path: path, str(MODEL): None})
    assert name_models(path, [], "mine")[1] == {"mine": path, str(MODEL): None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{0}"], "expected NAME=PATH"),
        (["={0}"], "expected NAME=PATH"),
        (["a={0}", "a={0}"], "found the name 'a' twice"),
        (["plain={0}"], "found the name 'plain' twice"),
        (["a=" + str(MODEL)], "found no adapter at"),
    ],
)
def test_names_are_checked_before_anything_is_loaded(adapters: dict[str, Path], given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        name_models(str(MODEL), [text.format(adapters["whole"]) for text in given], "plain")


def test_an_adapter_of_another_release_leaves_the_base_as_it_was(adapters: dict[str, Path], tmp_path: Path) -> None:
    strange = make_adapter(tmp_path / "strange", "v2_5")
    loaded = load_model(MODEL)
    with pytest.raises(CheckpointError, match="found an adapter of openbmb/MiniCPM-Llama3-V-2_5"):
        serve_models(loaded, {"plain": None, "a": str(adapters["whole"]), "b": str(strange)})
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
