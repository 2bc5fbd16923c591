"""What openpi's folders say, and RLinf's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError
from tests.support.vla_checkpoints import change, network_of, openpi_folder


def test_pi0_is_scaled_by_mean_and_deviation_and_pi05_by_quantiles(tmp_path: Path):
    for family, method in (("pi0", "mean_std"), ("pi05", "bounds")):
        folder = openpi_folder(tmp_path / family, family)
        checkpoint, statistics = read_checkpoint(folder), json.loads(next(folder.rglob("norm_stats.json")).read_text())["norm_stats"]
        assert (checkpoint.layout, checkpoint.family) == ("openpi", family)
        found = checkpoint.options["processing"]["actions"]["normalisation"]
        names = {"mean": "mean", "std": "std"} if family == "pi0" else {"low": "q01", "high": "q99"}
        assert found["method"] == method and found["epsilon"] == 1e-6 and found["double"]
        assert {ours: found[ours] for ours in names} == {ours: statistics["actions"][theirs] for ours, theirs in names.items()}
        assert str(folder) in found["source"]


def test_sizes_and_horizon_are_read_and_what_is_not_said_is_noted(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi05")
    checkpoint = read_checkpoint(folder)
    model = checkpoint.options["model"]
    assert (model["horizon"], model["action_size"], model["vocabulary"], model["language"]["layers"], model["variant"]) == (10, 32, 1024, 3, "pi05")
    assert any("discrete_state_input" in note for note in checkpoint.notes) and "form" not in checkpoint.options["processing"]["prompt"]
    (folder / "config.json").unlink()
    bare = read_checkpoint(folder)
    assert bare.options["model"]["horizon"] == 50 and any("does not say its horizon" in note for note in bare.notes)


@pytest.mark.parametrize("asset", ["assets/trossen", "assets/physical-intelligence/libero", "physical-intelligence/libero"])
def test_statistics_are_found_where_openpi_and_rlinf_put_them(asset: str, tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi0", asset)
    assert str(folder / asset) in read_checkpoint(folder).options["processing"]["state"]["normalisation"]["source"]
    assert f"{asset}/norm_stats.json" in read_checkpoint(folder).carried
    name = asset.removeprefix("assets/")
    assert read_checkpoint(folder, statistics=name).options == read_checkpoint(folder).options


def test_of_several_statistics_one_must_be_named(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi0", "assets/droid")
    shutil.copytree(folder / "assets" / "droid", folder / "assets" / "trossen")
    change(folder / "assets" / "trossen" / "norm_stats.json", lambda content: content["norm_stats"]["state"].update(mean=[5.0] * 8))
    with pytest.raises(RecipeError, match="several robots or data sets: droid, trossen"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, statistics="trossen").options["processing"]["state"]["normalisation"]["mean"] == [5.0] * 8
    with pytest.raises(RecipeError, match=r"no statistics 'bridge': it has droid, trossen"):
        read_checkpoint(folder, statistics="bridge")


def test_a_folder_without_statistics_is_refused_with_the_way_out(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi0")
    shutil.rmtree(folder / "assets")
    with pytest.raises(RecipeError, match=r"has no norm_stats\.json.*Copy assets/ there, or set statistics=none"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, statistics="none").options["processing"]["state"]["normalisation"] == {"method": "none"}


def test_weights_that_were_saved_without_the_inner_vision_model_fit(tmp_path: Path):
    """As newer versions of transformers name them."""
    folder = openpi_folder(tmp_path / "a", "pi0")
    weights = {name.replace("vision_tower.vision_model.", "vision_tower."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    load_weights(network_of("pi0").state_dict(), read_checkpoint(folder))


def test_a_tokenizer_beside_the_weights_is_used(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi0")
    assert read_checkpoint(folder).options["processing"]["prompt"]["tokenizer"] == "google/paligemma-3b-pt-224"
    (folder / "paligemma_tokenizer.model").write_bytes(b"")
    assert read_checkpoint(folder).options["processing"]["prompt"]["tokenizer"] == str(folder)


def test_what_is_not_pi_is_refused(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi0")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "time_mlp" not in name}, folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"not the weights of pi0 or pi0\.5"):
        read_checkpoint(folder)
    change(folder / "config.json", lambda config: config.update(action_dim=7))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"config\.json: action_dim is 7, and action_in_proj\.weight takes 32"):
        read_checkpoint(folder)
