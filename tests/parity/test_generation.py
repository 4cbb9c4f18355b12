"""Greedy generation against the released chat(), from the stored prompts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import minicpmv  # noqa: F401 # registers the model
from tests.parity.cases import FIXTURES, VERSIONS, patch_rows

SINGLE = [
    (version, entry["name"])
    for version in VERSIONS
    for entry in json.loads((FIXTURES / version / "inference.json").read_text(encoding="utf-8"))["entries"]
    if "batch" not in entry
]


@pytest.fixture(scope="module")
def models() -> dict:
    return {
        version: AutoModelForImageTextToText.from_pretrained(FIXTURES / version, dtype=torch.float32).eval()
        for version in VERSIONS
    }


@pytest.fixture(scope="module")
def stored() -> dict:
    return {version: load_file(FIXTURES / version / "inference.safetensors") for version in VERSIONS}


def inputs_of(version: str, tensors: dict, name: str) -> dict[str, torch.Tensor]:
    input_ids = tensors[f"{name}/input_ids"].long()[None]
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    bounds = tensors.get(f"{name}/image_bound")
    if bounds is None or not len(bounds):
        return inputs
    image_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for start, end in bounds.tolist():
        image_mask[0, start:end] = True
    sizes = tensors[f"{name}/tgt_sizes"].long()
    patches = [
        patch_rows(tensors[f"{name}/pixel_values_u8.{k}"], rows, columns)
        for k, (rows, columns) in enumerate(sizes.tolist())
    ]
    return inputs | {"pixel_values": torch.cat(patches), "tgt_sizes": sizes, "image_mask": image_mask}


def generate(model, inputs: dict, version: str, **options) -> torch.Tensor:
    ends = {"v2": [2], "v2_5": [401, 409]}.get(version, [403, 401])
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": ends, "pad_token_id": 0} | options
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize(("version", "name"), SINGLE)
def test_greedy_answers_equal_the_released_ones(models: dict, stored: dict, version: str, name: str) -> None:
    tensors, model = stored[version], models[version]
    inputs = inputs_of(version, tensors, name)
    expected = tensors[f"{name}/generated_ids"].long().flatten()
    answer = generate(model, inputs, version)[0]
    assert answer[: len(expected)].tolist() == expected.tolist()
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=1).logits[0, -1]
    if f"{name}/logits_last" in tensors:
        torch.testing.assert_close(logits, tensors[f"{name}/logits_last"], atol=2e-5, rtol=0)
    else:
        with torch.no_grad():
            every = model(**inputs).logits[0]
        torch.testing.assert_close(every, tensors[f"{name}/logits"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_beams_and_several_answers_repeat_the_images_of_their_row(
    models: dict, stored: dict, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two copies of a row answer as the row alone, and the tower sees a picture once however many beams there are."""
    model, inputs = models[version], inputs_of(version, stored[version], "image_sliced")
    seen: list[int] = []
    tower = model.vpm.forward
    monkeypatch.setattr(model.vpm, "forward", lambda *given: seen.append(len(given[1])) or tower(*given))
    alone = generate(model, inputs, version, num_beams=2)
    both = generate(model, inputs, version, num_beams=2, num_return_sequences=2)
    assert both[0].tolist()[: alone.shape[1]] == alone[0].tolist()
    assert seen == [len(inputs["tgt_sizes"])] * 2


def test_image_features_stand_for_the_pictures(models: dict, stored: dict) -> None:
    model, inputs = models["v2_6"], inputs_of("v2_6", stored["v2_6"], "image_sliced")
    pictures = {key: inputs.pop(key) for key in ("pixel_values", "tgt_sizes")}
    features = model.get_image_features(**pictures)
    with torch.no_grad():
        expected = model(**inputs, **pictures).logits
        assert torch.equal(model(**inputs, image_features=features).logits, expected)
    answers = [
        generate(model, inputs | given, "v2_6", num_beams=3).tolist()
        for given in (pictures, {"image_features": features})
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("version", ["v2_6", "v4", "v4_5"])
def test_left_padded_batch_answers_as_the_released_one(models: dict, stored: dict, version: str) -> None:
    tensors, model = stored[version], models[version]
    rows = [inputs_of(version, tensors, name) for name in ("image_unsliced", "multi_turn")]
    longest = max(row["input_ids"].shape[1] for row in rows)

    def left(tensor: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (longest - tensor.shape[1], 0))

    batch = {key: torch.cat([left(row[key]) for row in rows]) for key in ("input_ids", "attention_mask", "image_mask")}
    batch |= {key: torch.cat([row[key] for row in rows]) for key in ("pixel_values", "tgt_sizes")}
    assert batch["input_ids"].tolist() == tensors["batch_left_padded/input_ids"].tolist()
    answers = generate(model, batch, version)
    assert answers.tolist() == tensors["batch_left_padded/generated_ids"].tolist()
