"""Checkpoints that cannot be used are refused in one message that names the file and the key, and says what to do."""

from __future__ import annotations

import json
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.vla_checkpoints import change, lerobot_folder, network_of, openpi_folder, tokenizer_folder, write

SPACES = Spaces({"agentview": (32, 32, 3), "robot0_eye_in_hand": (32, 32, 3)}, 8, ActionSpace("continuous", 7), 100, ("open the drawer",))


def use(folder: Path, tokenizer: str = tokenizer_folder("pi0"), spaces: Spaces = SPACES) -> None:
    """Read a checkpoint, build its processing for LIBERO, and load its weights."""
    checkpoint = read_checkpoint(folder)
    said = checkpoint.options["processing"]
    recipe = {"prompt": {"tokenizer": tokenizer}}
    Processor(resolve_processing(spaces, checkpoint.family, preset="libero", checkpoint=said, layout=checkpoint.layout, recipe=recipe), spaces)
    load_weights(network_of(checkpoint.family).state_dict(keep_vars=True), checkpoint)


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def statistics_file(folder: Path) -> Path:
    return next(folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors"))


def shard(folder: Path) -> None:
    """Divide the weights into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    write(folder / "model.safetensors.index.json", {"weight_map": {name: file for file, own in files.items() for name in own}})
    (folder / "model.safetensors").unlink()


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def lose_a_key_of_the_index(folder: Path) -> None:
    shard(folder)
    change(folder / "model.safetensors.index.json", lambda index: index["weight_map"].pop("model.state_proj.bias"))


def add_a_key(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update({"model.value_head.weight": torch.zeros(2)}))


def lose_a_key(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("model.action_out_proj.bias"))


def give_a_wrong_shape(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update({"model.action_out_proj.bias": torch.zeros(14)}))


def put_nan_into_a_weight(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors["model.action_out_proj.bias"].__setitem__(3, float("nan")))


def take_statistics_of_another_robot(folder: Path) -> None:
    """Of one with 14 numbers of state, and a config.json that fits it."""
    edit_tensors(statistics_file(folder), lambda tensors: tensors.update({f"observation.state.{name}": torch.ones(14) for name in ("mean", "std")}))
    change(folder / "config.json", lambda config: config["input_features"]["observation.state"].update(shape=[14]))


def take_statistics_that_the_config_does_not_know(folder: Path) -> None:
    edit_tensors(statistics_file(folder), lambda tensors: tensors.update({"observation.state.mean": torch.ones(14)}))


def put_nan_into_statistics(folder: Path) -> None:
    edit_tensors(statistics_file(folder), lambda tensors: tensors["observation.state.std"].__setitem__(2, float("nan")))


def lose_a_statistic(folder: Path) -> None:
    edit_tensors(statistics_file(folder), lambda tensors: tensors.pop("observation.state.std"))


def change_the_type(folder: Path) -> None:
    change(folder / "config.json", lambda config: config.update(type="pi0_turbo"))


def cut_the_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) * 2 // 3])


def cut_the_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])


def cut_the_config(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])


def claim_a_header_of_a_gigabyte(folder: Path) -> None:
    """The file is long enough for it, without taking room on the disk."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 10**9))
        file.truncate(10**9 + 100)


def add_a_step(folder: Path) -> None:
    change(folder / "policy_preprocessor.json", lambda pipeline: pipeline["steps"].append({"registry_name": "my_crop", "config": {}}))


LEROBOT = {
    "missing shard": (lose_a_shard, ["model-00002-of-00002.safetensors is missing", "model.safetensors.index.json names it"]),
    "key that the index lacks": (lose_a_key_of_the_index, ["model.safetensors.index.json", "model.state_proj.bias", "the index does not name it"]),
    "extra key": (add_a_key, ["model.safetensors", "1 unexpected: model.value_head.weight"]),
    "missing key": (lose_a_key, ["1 missing: action_out_proj.bias"]),
    "wrong shape": (give_a_wrong_shape, ["model.safetensors", "model.action_out_proj.bias ([14] in the checkpoint, [32] in the network)"]),
    "NaN in a weight": (put_nan_into_a_weight, ["model.safetensors", "action_out_proj.bias", "not finite"]),
    "statistics of another robot": (take_statistics_of_another_robot, ["normalizer_processor.safetensors observation.state", "14", "8", "another robot"]),
    "statistics that config.json contradicts": (take_statistics_that_the_config_does_not_know, ["observation.state.mean has [14]", "config.json says [8]"]),
    "NaN in statistics": (put_nan_into_statistics, ["normalizer_processor.safetensors: observation.state.std[2] is nan"]),
    "missing statistic": (lose_a_statistic, ["normalises by MEAN_STD", "observation.state.std"]),
    "wrong type": (change_the_type, ["config.json: type is 'pi0_turbo'", "pi0, pi05, smolvla"]),
    "half-written weights": (cut_the_weights, ["model.safetensors ends within model.", "half-written"]),
    "half-written header": (cut_the_header, ["model.safetensors ends within its header", "half-written"]),
    "half-written config": (cut_the_config, ["config.json is not JSON", "half-written"]),
    "header of a gigabyte": (claim_a_header_of_a_gigabyte, ["model.safetensors", "1000000000", "at most 100000000"]),
    "unknown step": (add_a_step, ["policy_preprocessor.json", "my_crop"]),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_folder(tmp_path_factory.mktemp("lerobot") / "pi0", "pi0")


def refusal(folder: Path, tokenizer: str = tokenizer_folder("pi0")) -> str:
    """The one sentence or two by which a checkpoint is refused."""
    with pytest.raises(RecipeError) as caught:
        use(folder, tokenizer)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_checkpoint_that_is_spoiled_below_can_be_used(intact: Path, tmp_path: Path):
    use(intact)
    shutil.copytree(intact, tmp_path / "sharded")
    shard(tmp_path / "sharded")
    use(tmp_path / "sharded")


@pytest.mark.parametrize("name", LEROBOT)
def test_a_malformed_checkpoint_of_lerobot_is_refused(name: str, intact: Path, tmp_path: Path):
    spoil, words = LEROBOT[name]
    folder = Path(shutil.copytree(intact, tmp_path / "checkpoint"))
    spoil(folder)
    message = refusal(folder)
    assert [word for word in words if word not in message] == [], message
    assert str(folder) in message


def test_a_header_of_a_gigabyte_allocates_nothing(intact: Path, tmp_path: Path):
    folder = Path(shutil.copytree(intact, tmp_path / "checkpoint"))
    claim_a_header_of_a_gigabyte(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "in kB"


def test_a_missing_tokenizer_is_refused_with_the_way_out(intact: Path, tmp_path: Path):
    assert "processing.prompt.tokenizer=FOLDER" in refusal(intact, str(tmp_path))
    assert str(tmp_path / "nowhere") in refusal(intact, str(tmp_path / "nowhere"))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    assert f"{tmp_path / 'tokenizer.json'} cannot be read" in refusal(intact, str(tmp_path))


def test_a_gated_tokenizer_is_refused_with_the_way_out(intact: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the hub cannot be reached, as here, or asks for a login."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(intact, "google/paligemma-3b-pt-224")
    assert "google/paligemma-3b-pt-224" in message and "processing.prompt.tokenizer=FOLDER" in message


def spoil_statistics(folder: Path, edit: Callable[[dict[str, dict[str, list[float]]]], object]) -> Path:
    path = next(folder.rglob("norm_stats.json"))
    change(path, lambda content: edit(content["norm_stats"]))
    return path


OPENPI: dict[str, tuple[str, Callable[[dict[str, dict[str, list[float]]]], object], list[str]]] = {
    "zero range in a quantile": ("pi05", lambda found: found["actions"]["q99"].__setitem__(4, found["actions"]["q01"][4]), ["dimension 4", "above 0"]),
    "zero deviation": ("pi0", lambda found: found["actions"]["std"].__setitem__(1, 0.0), ["actions", "std of dimension 1 is 0.0"]),
    "NaN in statistics": ("pi0", lambda found: found["actions"]["mean"].__setitem__(6, float("nan")), ["norm_stats.actions.mean.6 is nan"]),
    "missing quantiles": ("pi05", lambda found: found["actions"].pop("q01"), ["norm_stats.actions.q01 is missing"]),
    "statistics of another robot": ("pi0", lambda found: [found["state"].update({key: [1.0] * 14}) for key in ("mean", "std")], ["14", "another robot"]),
    "statistics of fewer dimensions": ("pi0", lambda found: [found["actions"].update({key: [1.0] * 4}) for key in ("mean", "std")], ["4", "another robot"]),
    "lists of different length": ("pi0", lambda found: found["state"]["std"].pop(), ["norm_stats.state has 8 numbers of mean, and 7 of std"]),
}


@pytest.mark.parametrize("name", OPENPI)
def test_malformed_statistics_of_openpi_are_refused(name: str, tmp_path: Path):
    family, edit, words = OPENPI[name]
    folder = openpi_folder(tmp_path / "checkpoint", family)
    path = spoil_statistics(folder, edit)
    message = refusal(folder)
    assert [word for word in [*words, str(path)] if word not in message] == [], message


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path):
    assert "none of the layouts" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    assert "must hold a mapping" in refusal(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    assert "config.json is not JSON" in refusal(tmp_path)
