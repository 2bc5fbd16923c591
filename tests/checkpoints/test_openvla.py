"""OpenVLA-OFT's layout: folders that its authors' classes saved are read, refused where they are wrong, and written back as they came."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlvla3.checkpoints.checkpoint import kept_checkpoint, read_checkpoint, write_checkpoint
from rlvla3.checkpoints.openvla_writing import update
from rlvla3.checkpoints.torch_files import read_torch_header
from rlvla3.checkpoints.weights import load_weights
from rlvla3.config import check_options
from rlvla3.errors import RecipeError
from rlvla3.policies.openvla_oft.network import OpenVLAOFT
from rlvla3.policies.openvla_oft.options import OpenVLAOFTModel
from rlvla3.processing.specification import Processing
from tests.support.openvla_checkpoints import STEP, all_weights, stored_tensors, write_folder
from tests.support.openvla_references import DATASET, statistics

HEAD_FILE, STATE_FILE = f"action_head--{STEP}_checkpoint.pt", f"proprio_projector--{STEP}_checkpoint.pt"


@pytest.fixture(scope="module", params=["l1", "tokens"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("openvla") / "checkpoint", request.param)


@pytest.fixture
def damaged(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path / "checkpoint")


def network_of(folder: Path) -> OpenVLAOFT:
    return OpenVLAOFT(OpenVLAOFTModel.model_validate(read_checkpoint(folder).options["model"]))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_folder_says_sizes_and_processing(folder: Path):
    checkpoint = read_checkpoint(folder)
    model = OpenVLAOFTModel.model_validate(checkpoint.options["model"])
    has_head = (folder / HEAD_FILE).is_file()
    assert (checkpoint.layout, checkpoint.family, checkpoint.executed) == ("openvla", "openvla_oft", 8)
    assert (model.head, model.state_size) == (("l1", 8) if has_head else ("tokens", None))
    assert (model.dino.width, model.dino.layers, model.siglip.mlp_width, model.siglip.patch) == (32, 3, 96, 56)
    assert (model.language.width, model.language.heads, model.vocabulary, model.first_action_token) == (32, 4, 32064, 31744)
    processing = check_options(Processing, checkpoint.options["processing"], "processing")
    assert [camera.key for camera in processing.images.cameras] == ["full_image", "wrist_image"][: 1 + has_head]
    assert processing.images.mean == [0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5]
    assert processing.prompt.end == [29871]
    assert processing.state.size == (8 if has_head else None)
    actions, numbers = processing.actions.normalisation, statistics()[DATASET]["action"]
    assert (actions.low, actions.high, actions.mask) == (numbers["q01"], numbers["q99"], [True] * 6 + [False])
    assert actions.source == f"{folder / 'dataset_statistics.json'} {DATASET}.action (q01, q99)"


def test_what_is_read_is_written_back(folder: Path, tmp_path: Path):
    """Also after the folder is gone: a run keeps what no network has."""
    checkpoint, network = read_checkpoint(folder), network_of(folder)
    stated = load_weights(network.state_dict(keep_vars=True), checkpoint)
    assert any("cast from bfloat16 to float32" in sentence for sentence in stated)
    assert any("are not used, and are kept for export" in sentence for sentence in stated)
    checkpoint.keep(tmp_path / "kept", checkpoint.unused)
    for number, origin in enumerate((checkpoint, kept_checkpoint(tmp_path / "kept"))):
        written = tmp_path / f"written{number}"
        write_checkpoint(written, origin, network.state_dict())
        assert {path.name for path in written.iterdir()} == {path.name for path in folder.iterdir()}
        found, expected = stored_tensors(written), stored_tensors(folder)
        assert {file: set(tensors) for file, tensors in found.items()} == {file: set(tensors) for file, tensors in expected.items()}
        assert all(torch.equal(found[file][name], tensor) for file, tensors in expected.items() for name, tensor in tensors.items())
        for path in (path for path in folder.iterdir() if path.suffix == ".json" and not path.name.endswith("index.json")):
            assert (written / path.name).read_bytes() == path.read_bytes()
        places = [json.loads((place / "model.safetensors.index.json").read_text())["weight_map"] for place in (written, folder)]
        assert places[0] == places[1]


def test_weights_arrive_under_their_names(folder: Path):
    network, expected = network_of(folder), all_weights()
    load_weights(network.state_dict(keep_vars=True), read_checkpoint(folder))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0.02 if name.startswith("projector.") else 0)


def test_one_weight_file_and_heads_without_data_parallel_names(tmp_path: Path):
    folder = write_folder(tmp_path / "checkpoint", prefix="")
    names = {name: stored for name, stored in read_checkpoint(folder).weights.items() if name.startswith(("action_head.", "proprio_projector."))}
    assert names["action_head.model.fc1.weight"].name == "model.fc1.weight"
    assert names["action_head.model.fc1.weight"].shape == (32, 7 * 32)
    load_weights(network_of(folder).state_dict(keep_vars=True), read_checkpoint(folder))


def test_statistics_are_chosen_by_name(damaged: Path):
    path = damaged / "dataset_statistics.json"
    rewrite(path, lambda content: content.update(aloha_fold={key: {**value, "min": [-2.0] * 7} for key, value in content[DATASET].items() if key == "action"}))
    with pytest.raises(RecipeError, match=rf"statistics of several data sets: {DATASET}, aloha_fold. Set policy.options.statistics"):
        read_checkpoint(damaged)
    with pytest.raises(RecipeError, match=rf"has no statistics 'libero_10': it has {DATASET}, aloha_fold"):
        read_checkpoint(damaged, statistics="libero_10")
    assert read_checkpoint(damaged, statistics=DATASET).options["model"]["horizon"] == 8
    for part in (HEAD_FILE, STATE_FILE):
        (damaged / part).unlink()
    chosen = read_checkpoint(damaged, statistics="aloha_fold").options
    assert chosen["model"]["horizon"] == 25
    assert chosen["processing"]["actions"]["normalisation"]["low"] == [-2.0] * 7
    path.unlink()
    assert "norm_stats" not in str(read_checkpoint(damaged).options["processing"]["actions"]["normalisation"]["source"])


def test_a_model_whose_statistics_will_be_computed_needs_none(damaged: Path):
    (damaged / "dataset_statistics.json").unlink()
    rewrite(damaged / "config.json", lambda content: content.pop("norm_stats"))
    with pytest.raises(RecipeError, match=r"has no statistics: .* set policy.options.statistics=none"):
        read_checkpoint(damaged)
    options = read_checkpoint(damaged, statistics="none").options
    assert options["processing"]["state"] == {"size": 8, "normalisation": {"method": "none"}}
    assert options["processing"]["actions"] == {"size": 7, "normalisation": {"method": "none"}}


@pytest.mark.parametrize("statistics", ["none", DATASET])
def test_the_statistics_of_a_run_are_written(damaged: Path, tmp_path: Path, statistics: str):
    came, network = read_checkpoint(damaged, statistics=statistics), network_of(damaged)
    write_checkpoint(tmp_path / "written", came, network.state_dict())
    options = {**came.options, "statistics": statistics}
    processing = came.options["processing"]
    assert update(tmp_path / "written", came, options, 8) == []
    bounds = {name: {"method": "bounds", "low": [-0.5] * size, "high": [2.0] * size, "mask": []} for name, size in (("state", 8), ("actions", 7))}
    options["processing"] = {**processing, **{name: {**processing[name], "normalisation": bounds[name]} for name in bounds}}
    key = "rlvla3" if statistics == "none" else DATASET
    assert update(tmp_path / "written", came, options, 8) == [f"dataset_statistics.json: the statistics of {key} are those of the run"]
    again = read_checkpoint(tmp_path / "written", statistics=key).options["processing"]
    assert [again[name]["normalisation"][bound] for name in bounds for bound in ("low", "high")] == [[-0.5] * 8, [2.0] * 8, [-0.5] * 7, [2.0] * 7]
    options["processing"]["actions"] = {"normalisation": {"method": "mean_std"}}
    with pytest.raises(RecipeError, match="OpenVLA scales actions by quantiles, and this policy by mean_std"):
        update(tmp_path / "written", came, options, 8)


def test_merged_adapters_are_not_written_again(damaged: Path, tmp_path: Path):
    (damaged / "lora_adapter").mkdir()
    (damaged / "lora_adapter/adapter_config.json").write_text("{}")
    checkpoint, network = read_checkpoint(damaged), network_of(damaged)
    assert any("lora_adapter/, whose changes are in model.safetensors already" in note for note in checkpoint.notes)
    write_checkpoint(tmp_path / "written", checkpoint, network.state_dict())
    assert not (tmp_path / "written/lora_adapter").exists()
    for path in damaged.glob("model*"):
        path.unlink()
    with pytest.raises(RecipeError, match="its adapters are not merged"):
        read_checkpoint(damaged)


def set_key(name: str, *keys: str, value: object) -> Callable[[Path], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return lambda folder: rewrite(folder / name, change)


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-200])


def save(name: str, content: object) -> Callable[[Path], None]:
    return lambda folder: torch.save(content, folder / name)


STATISTICS_FILE = "dataset_statistics.json"
DAMAGES = {
    "single tower": (set_key("config.json", "use_fused_vision_backbone", value=False), "config.json: use_fused_vision_backbone is False"),
    "other language model": (set_key("config.json", "text_config", "model_type", value="phi"), "config.json: text_config.model_type is 'phi'"),
    "NaN": (set_key(STATISTICS_FILE, DATASET, "action", "q99", value=[1.0] * 6 + [float("nan")]), rf"{DATASET}: action.q99.6 is nan"),
    "no quantile": (set_key(STATISTICS_FILE, DATASET, "action", "q01", value=None), f"{STATISTICS_FILE}: {DATASET}.action.q01 is missing"),
    "mask too short": (set_key(STATISTICS_FILE, DATASET, "action", "mask", value=[True]), "7 numbers of q01, 7 of q99 and 1 of mask"),
    "another robot": (set_key(STATISTICS_FILE, DATASET, "proprio", "q01", value=[0.0] * 7), "has 7 numbers of q01, 8 of q99"),
    "empty": (lambda folder: (folder / STATISTICS_FILE).write_text("{}"), "has no statistics"),
    "half-written head": (cut(HEAD_FILE), f"{HEAD_FILE} is no file of torch 1.6 or newer, or it is half-written"),
    "a whole module": (save(HEAD_FILE, nn.Linear(2, 2)), f"{HEAD_FILE} holds more than a state dict of tensors, and is not read: it names torch.nn"),
    "a nested state": (save(HEAD_FILE, {"model": {"a": torch.zeros(2)}}), "holds more than a state dict of tensors"),
    "no tensors": (save(HEAD_FILE, [torch.zeros(2)]), "holds more than a state dict of tensors"),
    "two heads": (lambda folder: shutil.copy(folder / HEAD_FILE, folder / "action_head--7_checkpoint.pt"), "has several files of action_head"),
    "diffusion": (lambda folder: shutil.copy(folder / HEAD_FILE, folder / "noisy_action_projector--7_checkpoint.pt"), "denoises its actions"),
    "FiLM": (lambda folder: shutil.copy(folder / HEAD_FILE, folder / "vision_backbone--7_checkpoint.pt"), "has FiLM in its vision towers"),
    "colours": (set_key("preprocessor_config.json", "means", value=[[0.5] * 3]), "means and stds must have three numbers"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_refused_in_words(name: str, damaged: Path):
    damage, message = DAMAGES[name]
    damage(damaged)
    with pytest.raises(RecipeError, match=message):
        read_checkpoint(damaged)


def test_a_head_of_another_size_is_refused_by_name(damaged: Path):
    state = torch.load(damaged / HEAD_FILE, weights_only=True)
    state["module.model.fc2.bias"] = torch.zeros(3)
    state["module.model.extra"] = torch.zeros(3)
    torch.save(state, damaged / HEAD_FILE)
    with pytest.raises(RecipeError, match=r"1 unexpected: module.model.extra. 1 of another shape: module.model.fc2.bias \(\[3\] in the checkpoint, \[7\]"):
        load_weights(network_of(damaged).state_dict(keep_vars=True), read_checkpoint(damaged))


def test_a_torch_file_is_described_without_torch(tmp_path: Path):
    shared = torch.arange(12.0)
    state = OrderedDict(a=shared[:6].view(2, 3), b=nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)), c=torch.zeros((), dtype=torch.int64), d=shared[6:])
    torch.save(state, tmp_path / "state.pt")
    found = read_torch_header(tmp_path / "state.pt")
    assert {name: (stored.shape, stored.dtype) for name, stored in found.items()} == {
        "a": ((2, 3), "F32"),
        "b": ((4,), "BF16"),
        "c": ((), "I64"),
        "d": ((6,), "F32"),
    }
