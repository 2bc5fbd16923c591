"""What lerobot's folders say, of versions 0.3 to 0.6: the steps and their files decide, and nothing is assumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError
from rlvla3.processing.normalisation import Scale
from rlvla3.processing.specification import Normalisation
from tests.support.vla_checkpoints import change, lerobot_folder, network_of, write

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"


def step(pipeline: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(step for step in pipeline["steps"] if step["registry_name"] == name)
    return found


def configure(path: Path, name: str, **settings: Any) -> None:
    """Change settings of a step of the pipeline in `path`."""
    change(path, lambda pipeline: step(pipeline, name)["config"].update(settings))


def remove(path: Path, name: str) -> None:
    """Take a step out of the pipeline in `path`."""
    change(path, lambda pipeline: pipeline["steps"].remove(step(pipeline, name)))


def said(folder: Path) -> dict[str, Any]:
    processing: dict[str, Any] = read_checkpoint(folder).options["processing"]
    return processing


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: lerobot_folder(tmp_path / family, family)


@pytest.mark.parametrize(("mode", "low", "high"), [("MIN_MAX", "min", "max"), ("QUANTILES", "q01", "q99"), ("QUANTILE10", "q10", "q90")])
def test_every_normalisation_is_read_with_its_own_numbers(mode: str, low: str, high: str, folder: Callable[[str], Path]):
    checkpoint = folder("pi0")
    for pipeline, name in ((BEFORE, "normalizer_processor"), (AFTER, "unnormalizer_processor")):
        configure(checkpoint / pipeline, name, norm_map={"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode})
    numbers = load_file(next(checkpoint.glob("*_normalizer_processor.safetensors")))
    for part, key in (("state", "observation.state"), ("actions", "action")):
        found = said(checkpoint)[part]["normalisation"]
        assert found["low"] == numbers[f"{key}.{low}"].tolist() and found["high"] == numbers[f"{key}.{high}"].tolist()
        x = numbers[f"{key}.mean"] + 0.3
        theirs = 2 * (x - numbers[f"{key}.{low}"]) / (numbers[f"{key}.{high}"] - numbers[f"{key}.{low}"]) - 1
        assert torch.equal(Scale(Normalisation.model_validate(found)).scale(x), theirs)


def test_identity_and_missing_statistics_leave_numbers_as_they_are(folder: Callable[[str], Path]):
    checkpoint = folder("pi0")
    configure(checkpoint / BEFORE, "normalizer_processor", norm_map={"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"})
    change(checkpoint / AFTER, lambda content: step(content, "unnormalizer_processor").pop("state_file"))
    assert said(checkpoint)["state"]["normalisation"]["method"] == said(checkpoint)["actions"]["normalisation"]["method"] == "none"
    assert len([note for note in read_checkpoint(checkpoint).notes if "no statistics" in note]) == 2


def test_the_name_of_a_state_file_is_read_and_not_built(folder: Callable[[str], Path]):
    checkpoint = folder("pi0")
    old = next(checkpoint.glob("policy_preprocessor_step_*"))
    expected = said(checkpoint)["state"]["normalisation"]["mean"]
    old.rename(checkpoint / "statistics.safetensors")
    with pytest.raises(RecipeError, match=rf"{old.name} is missing: {BEFORE} names it as state_file"):
        said(checkpoint)
    change(checkpoint / BEFORE, lambda content: step(content, "normalizer_processor").update(state_file="statistics.safetensors"))
    assert said(checkpoint)["state"]["normalisation"]["mean"] == expected


def test_images_of_each_family(folder: Callable[[str], Path]):
    """lerobot writes (height, width) for pi0, and (width, height) for SmolVLA."""
    pi, smolvla = said(folder("pi0"))["images"], said(folder("smolvla"))["images"]
    assert (pi["size"], pi["resize"], pi.get("empty")) == ([32, 40], "pad", None)
    assert (smolvla["size"], smolvla["resize"], smolvla["empty"]) == ([32, 40], "pad_corner", 1)
    assert [camera["key"].split(".")[-1] for camera in pi["cameras"]] == ["image", "image2", "empty_camera_0"]


def test_rename_maps_say_what_data_sets_call_a_camera(folder: Callable[[str], Path]):
    checkpoint = folder("smolvla")
    renamed = {"observation.images.wrist": "observation.images.image2"}
    configure(checkpoint / BEFORE, "rename_observations_processor", rename_map=renamed)
    assert said(checkpoint)["images"]["cameras"][1] == {"key": "observation.images.image2", "known_as": "observation.images.wrist"}


def test_the_prompt_of_pi05_follows_its_steps(folder: Callable[[str], Path]):
    checkpoint = folder("pi05")
    assert said(checkpoint)["prompt"]["form"] == "task_state" and said(checkpoint)["prompt"]["length"] == 200
    assert said(checkpoint)["state"]["size"] is None and len(read_checkpoint(checkpoint).notes) == 1, "of the size"
    prompt_step = "pi05_prepare_state_tokenizer_processor_step"
    change(checkpoint / BEFORE, lambda content: step(content, prompt_step).update(config={"include_state_in_prompt": False}))
    assert said(checkpoint)["prompt"]["form"] == "task"


def test_pi05_of_old_lerobot_is_noted_because_its_state_may_have_been_padded(folder: Callable[[str], Path]):
    """lerobot 0.5.0 and older have no step of relative actions. 0.4 padded the state in the prompt, 0.5.0 did not, and no file tells them apart."""
    checkpoint = folder("pi05")
    for pipeline, name in ((BEFORE, "relative_actions_processor"), (AFTER, "absolute_actions_processor")):
        remove(checkpoint / pipeline, name)
    note, of_size = read_checkpoint(checkpoint).notes
    assert "16 are assumed" in of_size and "processing.prompt.state_size=32" in note and "not padded here" in note


def test_relative_actions_leave_out_the_excluded_joints(folder: Callable[[str], Path]):
    assert said(folder("pi0"))["actions"]["relative"] == []
    checkpoint = folder("pi0_relative")
    assert said(checkpoint)["actions"]["relative"] == [True] * 6 + [False]
    configure(checkpoint / AFTER, "absolute_actions_processor", enabled=False)
    with pytest.raises(RecipeError, match="must both be enabled, or neither"):
        said(checkpoint)


def test_a_tokenizer_beside_the_weights_is_used(folder: Callable[[str], Path]):
    checkpoint = folder("pi0")
    assert said(checkpoint)["prompt"]["tokenizer"] == "google/paligemma-3b-pt-224"
    write(checkpoint / "tokenizer.json", {})
    assert said(checkpoint)["prompt"]["tokenizer"] == str(checkpoint)
    assert "tokenizer.json" in read_checkpoint(checkpoint).carried


def test_denoising_steps_executed_actions_and_periods_are_read(folder: Callable[[str], Path]):
    for family in ("pi0", "smolvla"):
        checkpoint = read_checkpoint(folder(family))
        assert checkpoint.options["flow"] == {"denoising_steps": 10} and checkpoint.executed == 4
        assert checkpoint.options["model"]["horizon"] == 6 and checkpoint.options["model"]["min_period"] == 0.004


def test_old_checkpoints_keep_their_statistics_among_the_weights(folder: Callable[[str], Path]):
    """lerobot 0.3 had no processors. Its buffers are read, loaded into no network, and written back."""
    checkpoint = folder("smolvla")
    expected = said(checkpoint)
    numbers = load_file(next(checkpoint.glob("*_normalizer_processor.safetensors")))
    weights = load_file(checkpoint / "model.safetensors")
    for module, key, name in (("normalize_inputs", "observation.state", "observation_state"), ("unnormalize_outputs", "action", "action")):
        weights |= {f"{module}.buffer_{name}.{kind}": numbers[f"{key}.{kind}"] for kind in ("mean", "std")}
    for path in checkpoint.glob("policy_*"):
        path.unlink()
    save_file(weights, checkpoint / "model.safetensors")
    found = read_checkpoint(checkpoint)
    assert "lerobot 0.3 or older" in found.notes[0]
    for part in ("state", "actions"):
        ours, theirs = (processing[part]["normalisation"] for processing in (found.options["processing"], expected))
        assert {**ours, "source": ""} == {**theirs, "source": ""}
    assert found.options["processing"]["prompt"]["form"] == "line"
    stated = load_weights(network_of("smolvla").state_dict(), found)
    assert any("normalize_inputs.buffer_observation_state.mean" in sentence for sentence in stated)


def test_a_folder_of_training_is_read_at_its_pretrained_model(tmp_path: Path):
    lerobot_folder(tmp_path / "last" / "pretrained_model", "pi0")
    assert read_checkpoint(tmp_path / "last").folder == tmp_path / "last" / "pretrained_model"


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "steps of another kind": ("pi0", {"num_inference_steps": "ten"}, r"config\.json: num_inference_steps is 'ten'"),
    "no image size": ("smolvla", {"resize_imgs_with_padding": None}, r"config\.json: the size of images is None"),
    "aloha": ("smolvla", {"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha is true"),
    "features": ("pi0", {"input_features": {"observation.state": [8]}}, "input_features.observation.state is .*, and must be a mapping"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_not_read_are_refused(name: str, folder: Callable[[str], Path]):
    family, update, words = REFUSED[name]
    checkpoint = folder(family)
    change(checkpoint / "config.json", lambda config: config.update(update))
    with pytest.raises(RecipeError, match=words):
        read_checkpoint(checkpoint)
