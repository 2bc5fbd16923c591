"""GR00T N1.5's layout: read, loaded, written back, and refused in words where it is of another version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvla3.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError
from rlvla3.policies.groot.network import GR00T
from rlvla3.policies.groot.options import GrootModel
from rlvla3.processing.specification import Processing
from tests.support.groot_checkpoints import EMBEDDING, OUTPUT, groot_folder, groot_tensors, lerobot_groot_folder, lerobot_model, tiny_model

METADATA = "experiment_cfg/metadata.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return groot_folder(tmp_path / "checkpoint")


@pytest.fixture
def lerobot(tmp_path: Path) -> Path:
    return lerobot_groot_folder(tmp_path / "lerobot")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_it_says_the_sizes_and_the_processing(folder):
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.layout, checkpoint.family) == ("groot", "groot")
    assert GrootModel.model_validate(checkpoint.options["model"]) == tiny_model()
    assert checkpoint.options["flow"] == {"denoising_steps": 4}
    processing = Processing.model_validate(checkpoint.options["processing"])
    assert [camera.key for camera in processing.images.cameras] == ["video.image", "video.wrist_image"]
    statistics = json.loads((folder / METADATA).read_text())["new_embodiment"]["statistics"]
    assert processing.state.normalisation.low == [number for key in statistics["state"].values() for number in key["min"]]
    assert processing.actions.normalisation.high == [number for key in statistics["action"].values() for number in key["max"]]


def test_the_weights_are_loaded_and_what_is_not_used_is_said(folder):
    checkpoint = read_checkpoint(folder)
    network = GR00T(GrootModel.model_validate(checkpoint.options["model"]))
    said = " ".join(load_weights(network.state_dict(), checkpoint))
    assert "from bfloat16 to float32" in said
    assert "2 tensors" in said and "vision_model.head.probe" in said
    tensors = groot_tensors(GrootModel.tiny())
    assert all(torch.equal(tensor, tensors[name].float()) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("layout", ["folder", "lerobot"])
def test_it_is_written_back_as_it_came(layout, request, tmp_path):
    folder: Path = request.getfixturevalue(layout)
    checkpoint = read_checkpoint(folder)
    network = GR00T(GrootModel.model_validate(checkpoint.options["model"]))
    load_weights(network.state_dict(), checkpoint)
    write_checkpoint(tmp_path / "out", checkpoint, network.state_dict())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    for name in files:
        before, after = folder / name, tmp_path / "out" / name
        if before.suffix == ".safetensors":
            old, new = load_file(before), load_file(after)
            assert old.keys() == new.keys()
            assert all(torch.equal(old[key], new[key]) and old[key].dtype == new[key].dtype for key in old)
        elif before.suffix == ".json":
            assert json.loads(before.read_text()) == json.loads(after.read_text())
        else:
            assert before.read_bytes() == after.read_bytes()


def test_lerobots_layout_says_sizes_processing_and_actions_that_are_executed(lerobot):
    checkpoint = read_checkpoint(lerobot)
    assert (checkpoint.layout, checkpoint.family, checkpoint.executed) == ("lerobot", "groot", 16)
    assert GrootModel.model_validate(checkpoint.options["model"]) == lerobot_model()
    processing = Processing.model_validate(checkpoint.options["processing"])
    assert [camera.key for camera in processing.images.cameras] == ["observation.images.front", "observation.images.wrist"]


def test_the_embedding_may_be_stored_under_the_name_of_the_output_layer(lerobot):
    """safetensors writes tied tensors once, under either name."""
    checkpoint = read_checkpoint(lerobot)
    network = GR00T(GrootModel.model_validate(checkpoint.options["model"]))
    load_weights(network.state_dict(), checkpoint)
    stored = load_file(lerobot / "model.safetensors")
    assert f"_groot_model.{EMBEDDING}" not in stored
    assert torch.equal(network.state_dict()[EMBEDDING], stored[f"_groot_model.{OUTPUT}"].float())


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("policy_preprocessor.json", lambda steps: steps["steps"].pop(2), ["no step groot_pack_inputs_v3"]),
        (
            "policy_preprocessor.json",
            lambda steps: steps["steps"][3].update(registry_name="groot_eagle_encode_v9"),
            ["encode_v9", "not known here"],
        ),
        ("policy_preprocessor.json", lambda steps: steps["steps"][2]["config"].update(formalize_language=True), ["formalize_language"]),
        ("policy_preprocessor.json", lambda steps: steps["steps"][2]["config"].update(embodiment_tag="mine"), ["embodiment_tag 'mine'", "so100"]),
        ("policy_postprocessor.json", lambda steps: steps["steps"][0].update(state_file="none.safetensors"), ["none.safetensors is missing"]),
    ],
)
def test_lerobots_steps_that_are_not_known_are_refused_in_words(lerobot, file, change, words):
    edit(lerobot / file, change)
    with pytest.raises(RecipeError) as refused:
        read_checkpoint(lerobot)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(model_type="Gr00tN1d6"), ["Gr00tN1d6", "N1.6", "not supported", "GR00T N1.5"]),
        (lambda config: config.update(model_type="Gr00tN1d7"), ["N1.7", "Qwen3-VL", "GR00T N1.5"]),
        (lambda config: config.update(model_type="gr00t_n1"), ["GR00T N1,", "GR00T N1.5"]),
        (lambda config: config.update(model_type="gr00t_n9"), ["not known here"]),
        (lambda config: config["action_head_cfg"].update(use_vlln=False), ["action_head_cfg.use_vlln is False", "only True"]),
        (lambda config: config["action_head_cfg"]["diffusion_model_cfg"].pop("positional_embeddings"), ["positional_embeddings is 'sinusoidal'", "only None"]),
        (lambda config: config["action_head_cfg"]["diffusion_model_cfg"].update(num_layers="4"), ["num_layers is '4'", "whole number"]),
    ],
)
def test_other_versions_are_refused_in_words(folder, change, words):
    edit(folder / "config.json", change)
    with pytest.raises(RecipeError) as refused:
        read_checkpoint(folder)
    assert all(word in str(refused.value) for word in [*words, "config.json"])


def of_robot(change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda metadata: change(metadata["new_embodiment"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda metadata: metadata.update(mine=metadata["new_embodiment"]), ["several embodiments: new_embodiment, mine", "Set statistics"]),
        (lambda metadata: metadata.update(gr1=metadata.pop("new_embodiment")), ["embodiment gr1", "sines and cosines"]),
        (of_robot(lambda robot: robot["statistics"]["state"].pop("yaw")), ["statistics.state.yaw.min", "missing"]),
        (of_robot(lambda robot: robot["statistics"]["action"]["x"].update(max=[float("nan")])), ["statistics.action.x.max[0] is nan"]),
        (of_robot(lambda robot: robot["statistics"]["state"]["gripper"]["max"].pop()), ["statistics.state.gripper has 2 numbers of min and 1 of max"]),
        (of_robot(lambda robot: robot["modalities"].pop("video")), ["modalities.video is missing"]),
        (of_robot(lambda robot: robot["statistics"]["action"]["x"].update(min=[0.0] * 33, max=[1.0] * 33)), ["39 numbers", "32 at most"]),
    ],
)
def test_statistics_that_do_not_fit_are_refused_in_words(folder, change, words):
    edit(folder / METADATA, change)
    with pytest.raises(RecipeError) as refused:
        read_checkpoint(folder)
    assert all(word in str(refused.value) for word in [*words, "metadata.json"])


def test_the_embodiment_is_chosen_by_its_tag(folder):
    edit(folder / METADATA, lambda metadata: metadata.update(agibot_genie1=metadata["new_embodiment"], mine=metadata["new_embodiment"]))
    assert read_checkpoint(folder, statistics="agibot_genie1").options["model"]["embodiment"] == 26
    mine = read_checkpoint(folder, statistics="mine")
    assert "embodiment" not in mine.options["model"]
    assert "Set policy.options.model.embodiment" in mine.notes[-1]
    with pytest.raises(RecipeError, match=r"statistics=mine/median is not known"):
        read_checkpoint(folder, statistics="mine/median")
    with pytest.raises(RecipeError, match=r"no embodiment 'other': it has new_embodiment, agibot_genie1, mine"):
        read_checkpoint(folder, statistics="other")


def test_a_missing_tensor_is_named(folder):
    name = "model-00002-of-00002.safetensors"
    tensors = load_file(folder / name)
    del tensors["action_head.state_encoder.layer1.W"]
    save_file(tensors, folder / name)
    edit(folder / "model.safetensors.index.json", lambda index: index["weight_map"].pop("action_head.state_encoder.layer1.W"))
    with pytest.raises(RecipeError, match=r"no tensor action_head\.state_encoder\.layer1\.W"):
        read_checkpoint(folder)
