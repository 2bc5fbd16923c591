"""The sizes of SmolVLA's network are read off a checkpoint of lerobot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.checkpoints.smolvla_names import HEADS, RENAMES, smolvla_sizes
from rlvla3.errors import RecipeError
from rlvla3.policies.pi.smolvla import SmolVLA
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from tests.support.repository import ROOT
from tests.support.smolvla_references import CASES, sizes


def shapes_of(model: SmolVLAModel) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {f"{RENAMES[0][1]}{name}": tuple(tensor.shape) for name, tensor in SmolVLA(model).state_dict().items()}


def config(**changes: Any) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((ROOT / "tests/references/lerobot/smolvla/config.json").read_text())
    return saved | {"chunk_size": 50} | changes


def test_the_published_sizes_are_found():
    assert SmolVLAModel.model_validate(smolvla_sizes(Path("a checkpoint"), config(), shapes_of(SmolVLAModel.published()))) == SmolVLAModel.published()


def test_the_tiny_sizes_are_found():
    found = smolvla_sizes(Path("a checkpoint"), config(chunk_size=8), shapes_of(SmolVLAModel.tiny()))
    assert SmolVLAModel.model_validate(found) == SmolVLAModel.tiny()


@pytest.mark.parametrize("case", sorted(set(CASES) - {"special_tokens"}))
def test_the_sizes_of_other_structures_are_found(case: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"num_attention_heads": 2}, "text_config": {"head_dim": 16}}))
    model = SmolVLAModel.model_validate(sizes(case))
    # Without cross-attention, lerobot does not ask for every how many layers there is self-attention.
    said = {"attention_mode": "self_attn"} if case == "self_attention" else {"self_attn_every_n_layers": model.self_attention_every or -1}
    found = smolvla_sizes(Path("a checkpoint"), config(chunk_size=6, vlm_model_name=str(tmp_path), **said), shapes_of(model))
    assert SmolVLAModel.model_validate(found) == model


def test_special_tokens_are_those_of_the_vision_language_model():
    found = smolvla_sizes(Path("a checkpoint"), config(add_image_special_tokens=True), shapes_of(SmolVLAModel.published()))
    assert (found["image_start"], found["image_end"]) == ([49189, 49152], [49189])
    other = next(name for name in HEADS if "256M" in name)
    with pytest.raises(RecipeError, match="add_image_special_tokens is true"):
        smolvla_sizes(Path("a checkpoint"), config(add_image_special_tokens=True, vlm_model_name=other), shapes_of(SmolVLAModel.published()))


def test_what_is_not_known_is_named():
    shapes = shapes_of(SmolVLAModel.tiny())
    with pytest.raises(RecipeError, match="vlm_model_name=a/b is not known"):
        smolvla_sizes(Path("a checkpoint"), config(vlm_model_name="a/b"), shapes)
    lost = "model.vlm_with_expert.lm_expert.norm.weight"
    with pytest.raises(RecipeError, match=f"no tensor {lost}"):
        smolvla_sizes(Path("a checkpoint"), config(), {name: shape for name, shape in shapes.items() if name != lost})
