"""Weights come in and go out: by name, strictly, in the layout, the formats and the division into files that came in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import find_checkpoint, kept_checkpoint, read_checkpoint, write_checkpoint
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError, some_of
from tests.support.vla_checkpoints import EMBEDDING, HEAD, lerobot_folder, network_of, openpi_folder

FAMILIES = ["pi0", "pi05", "smolvla"]


def loaded(folder: Path, family: str) -> dict[str, Tensor]:
    """The tensors of a network of other weights, after the checkpoint's were loaded."""
    state = network_of(family, seed=5).state_dict()
    load_weights(state, read_checkpoint(folder))
    return state


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].dtype != theirs[name].dtype or not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_is_what_the_checkpoint_holds(family: str, tmp_path: Path):
    assert_same(loaded(lerobot_folder(tmp_path / "a", family), family), dict(network_of(family).state_dict()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_came_in_and_the_rest_is_beside_it(family: str, tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", family)
    assert write_checkpoint(tmp_path / "b", read_checkpoint(folder), loaded(folder, family)) == []
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(path.name for path in folder.iterdir())
    assert_same(load_file(tmp_path / "b" / "model.safetensors"), load_file(folder / "model.safetensors"))
    for path in folder.glob("*.json"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert read_checkpoint(tmp_path / "b").options["model"] == read_checkpoint(folder).options["model"]


def test_openpis_tied_head_is_loaded_and_written_as_the_embedding(tmp_path: Path):
    folder = openpi_folder(tmp_path / "a", "pi05")
    state = loaded(folder, "pi05")
    assert torch.equal(state[EMBEDDING], network_of("pi05").state_dict()[EMBEDDING])
    state[EMBEDDING] += 1
    write_checkpoint(tmp_path / "b", read_checkpoint(folder), state)
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert torch.equal(written[HEAD], state[EMBEDDING]) and EMBEDDING not in written
    assert (tmp_path / "b" / "assets" / "physical-intelligence" / "libero" / "norm_stats.json").is_file()


def test_names_without_the_prefix_of_lerobot_are_written_back_without_it(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    weights = {name.removeprefix("model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    write_checkpoint(tmp_path / "b", read_checkpoint(folder), loaded(folder, "pi0"))
    assert_same(load_file(tmp_path / "b" / "model.safetensors"), weights)


def test_shards_stay_shards(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in weights.items() if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    write_checkpoint(tmp_path / "b", read_checkpoint(folder), loaded(folder, "pi0"))
    assert json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())["weight_map"] == places
    for file in set(places.values()):
        assert_same(load_file(tmp_path / "b" / file), load_file(folder / file))


def test_casts_are_stated(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() if "layers" in name else tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    checkpoint, state = read_checkpoint(folder), network_of("pi0", seed=5).state_dict()
    count = sum("layers" in name for name in weights)
    (cast,) = [sentence for sentence in load_weights(state, checkpoint) if "are cast from" in sentence]
    assert cast == f"{count} tensors of {folder} are cast from bfloat16 to float32"
    assert write_checkpoint(tmp_path / "b", checkpoint, state) == [f"{count} tensors are written as bfloat16, from float32"]
    assert_same(load_file(tmp_path / "b" / "model.safetensors"), load_file(folder / "model.safetensors"))
    write_checkpoint(tmp_path / "c", checkpoint, state, dtype=torch.float32)
    assert {tensor.dtype for tensor in load_file(tmp_path / "c" / "model.safetensors").values()} == {torch.float32}


def test_a_checkpoint_can_be_written_after_its_folder_is_gone(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    checkpoint, state = read_checkpoint(folder), loaded(folder, "pi0")
    expected = load_file(folder / "model.safetensors")
    checkpoint.keep(tmp_path / "kept", checkpoint.unused)
    shutil.rmtree(folder)
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    once = kept_checkpoint(tmp_path / "moved")
    once.keep(tmp_path / "again", once.unused)
    shutil.rmtree(tmp_path / "moved")
    kept = kept_checkpoint(tmp_path / "again")
    assert (kept.layout, kept.family, kept.options, kept.executed) == ("lerobot", "pi0", json.loads(json.dumps(checkpoint.options)), 4)
    write_checkpoint(tmp_path / "b", kept, state)
    assert_same(load_file(tmp_path / "b" / "model.safetensors"), expected)
    assert (tmp_path / "b" / "policy_preprocessor.json").is_file()


def test_tensors_that_the_layout_has_no_place_for_are_refused(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    with pytest.raises(RecipeError, match="1 tensors have no place in this checkpoint of layout lerobot: value"):
        write_checkpoint(tmp_path / "b", read_checkpoint(folder), {**loaded(folder, "pi0"), "value": torch.zeros(1)})


def test_every_missing_key_is_named_and_long_lists_are_shortened(tmp_path: Path):
    folder = lerobot_folder(tmp_path / "a", "pi0")
    with pytest.raises(RecipeError, match=r"30 missing: new0, new1, .* and 10 more") as caught:
        load_weights({**network_of("pi0").state_dict(), **{f"new{number}": torch.zeros(1) for number in range(30)}}, read_checkpoint(folder))
    assert "new19" in str(caught.value) and "new20" not in str(caught.value)
    assert some_of(["a", "b"]) == "a, b"


def test_names_go_both_ways_and_two_that_become_one_are_refused():
    names = WeightNames(renames=(("", "model."), ("vision.", "tower.vision_model.")))
    assert names.theirs("vision.a") == "tower.vision_model.a" and names.theirs("head.b") == "model.head.b"
    assert [names.ours(names.theirs(name)) for name in ("vision.a", "head.b")] == ["vision.a", "head.b"]
    names.check(["vision.a", "head.b"])
    with pytest.raises(ValueError, match=r"one to one: .*b\.x"):
        WeightNames(renames=(("a.", "b."),)).check(["a.x", "b.x"])


def test_a_name_that_is_no_folder_is_sought_on_the_hub_and_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_checkpoint(str(tmp_path)) == tmp_path
    with pytest.raises(RecipeError, match=r"lerobot/pi0_base is no folder here.*a local folder is accepted"):
        find_checkpoint("lerobot/pi0_base")
    with pytest.raises(RecipeError, match=r"there is no checkpoint at \./nowhere"):
        find_checkpoint("./nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RecipeError, match="there is no checkpoint at runs/misspelt"):
        find_checkpoint("runs/misspelt")
    (tmp_path / "runs" / "weights").touch()
    with pytest.raises(RecipeError, match="runs/weights is a file"):
        find_checkpoint("runs/weights")
