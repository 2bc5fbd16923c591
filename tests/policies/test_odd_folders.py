"""Policy folders that are damaged, or say odd things of themselves: each is refused in one sentence that names the file and the key, or the tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvla3.benchmarks.fuzz.good_policies import FAMILIES, FED, FED_TINY, OURS, SPACES, write_good
from rlvla3.config import PolicyConfig
from rlvla3.errors import ExplainedError
from rlvla3.policies.registry import make_policy, read_checkpoint_config


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A good folder of a kind. It is written once."""
    place = tmp_path_factory.mktemp("good")

    def folder(kind: str) -> Path:
        if not (place / kind).exists():
            (place / kind).mkdir()
            write_good(kind, place / kind)
        return place / kind

    return folder


def load(folder: Path, kind: str) -> None:
    if kind in OURS or kind.startswith("kept"):
        saved = read_checkpoint_config(folder)
        make_policy(saved.config(folder), saved.spaces)
    else:
        fed = FED if kind.startswith("lerobot") else FED_TINY
        make_policy(PolicyConfig(name=FAMILIES[kind], chunk=2, checkpoint=folder, options=fed), SPACES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_good_folder_is_accepted_and_without_a_file_it_is_refused(kind: str, good: Callable[[str], Path], tmp_path: Path) -> None:
    load(good(kind), kind)
    shutil.copytree(good(kind), tmp_path / "lost")
    (next((tmp_path / "lost").glob("model*.safetensors"))).unlink()
    with pytest.raises(ExplainedError):
        load(tmp_path / "lost", kind)


@pytest.mark.parametrize("kind", ["actor_critic", "mini_vla", "lerobot pi0", "openvla", "groot"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_weight_that_is_not_finite_is_accepted(kind: str, number: float, good: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good(kind), tmp_path / "policy"))
    path = sorted(folder.glob("model*.safetensors"))[-1]
    tensors = load_file(path)
    for name in (min(tensors), max(tensors)):
        broken = {key: tensor.clone() for key, tensor in tensors.items()}
        broken[name].view(-1)[-1] = number
        save_file(broken, path, {"format": "pt"})
        with pytest.raises(ExplainedError, match=rf"{name}.* not finite") as caught:
            load(folder, kind)
        assert str(path) in str(caught.value)


def test_an_unused_weight_that_is_not_finite_is_not_accepted_either(good: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good("openpi pi0"), tmp_path / "policy"))
    tensors = load_file(folder / "model.safetensors")
    name = "paligemma_with_expert.gemma_expert.lm_head.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExplainedError, match=rf"{name}.* not finite"):
        load(folder, "openpi pi0")


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the content of a JSON file."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def config(**values: Any) -> Callable[[Path], None]:
    return edit("config.json", lambda content: content.update(values))


def text(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        held = load_file(path)
        change(held)
        save_file(held, path, {"format": "pt"})

    return apply


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the JSON in front of the numbers of model.safetensors."""

    def apply(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        tree = json.loads(content[8 : 8 + length])
        change(tree)
        new = json.dumps(tree).encode()
        (folder / "model.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])

    return apply


STATISTICS = "assets/libero/norm_stats.json"
METADATA = "experiment_cfg/metadata.json"
ONE = "actor.0.bias"
ODD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no config": ("actor_critic", lambda folder: (folder / "config.json").unlink(), "no policy at .*: give a folder with config.json"),
    "a config of a list": ("actor_critic", text("config.json", b"[1]"), r"config.json holds \[1\], and must hold a mapping"),
    "a half-written config": ("actor_critic", text("config.json", b'{"policy"'), "config.json is not JSON.*half-written"),
    "a deep config": ("actor_critic", text("config.json", b'{"a":' * 5000 + b"1" + b"}" * 5000), "config.json has more than 100 lists and mappings"),
    "half of a character": ("actor_critic", config(policy="\ud800"), "config.json is not JSON"),
    "no spaces": ("actor_critic", edit("config.json", lambda content: content.pop("spaces")), "config.json: spaces is missing"),
    "spaces of text": ("actor_critic", config(spaces="all"), "spaces is 'all', and must be a mapping"),
    "a chunk of text": ("actor_critic", config(chunk="2"), "chunk is '2', and must be a whole number"),
    "a chunk of 0": ("actor_critic", config(chunk=0), "chunk is 0, and must be 1 or more"),
    "a policy that is a number": ("actor_critic", config(policy=7), "policy is 7, and must be text"),
    "a policy of nobody": ("actor_critic", config(policy="nobody"), "nobody is not known"),
    "options of a list": ("actor_critic", config(options=[]), r"options is \[\], and must be a mapping"),
    "a camera of two sides": (
        "actor_critic",
        edit("config.json", lambda content: content["spaces"]["cameras"].update(agentview=[64, 64])),
        r"spaces.cameras.agentview is \[64, 64\], and must be a list of 3 or more",
    ),
    "a state without end": (
        "actor_critic",
        edit("config.json", lambda content: content["spaces"].update(state=10**12)),
        "spaces.state is 1000000000000, and must be at most 1000000",
    ),
    "a network of any size": (
        "actor_critic",
        edit("config.json", lambda content: content["options"].update(image_features=10**9)),
        "weights of another policy",
    ),
    "bounds of NaN": (
        "actor_critic",
        edit("config.json", lambda content: content["spaces"]["action"].update(low=float("nan"))),
        "spaces.action.low is nan, and must be a finite number",
    ),
    "an unknown kind of action": (
        "actor_critic",
        edit("config.json", lambda content: content["spaces"]["action"].update(kind="any")),
        "spaces.action.kind is 'any', and must be 'continuous' or 'discrete'",
    ),
    "weights of whole numbers": ("actor_critic", tensors(lambda held: held.update({ONE: held[ONE].long()})), "holds torch.int64"),
    "weights of complex numbers": ("actor_critic", tensors(lambda held: held.update({ONE: held[ONE].to(torch.complex64)})), "holds torch.complex64"),
    "a tensor of another shape": ("actor_critic", tensors(lambda held: held.update({ONE: held[ONE][:1].clone()})), f"weights of another policy: .* {ONE}"),
    "a tensor less": ("actor_critic", tensors(lambda held: held.pop(ONE)), f"weights of another policy: 1 tensors differ, first {ONE}"),
    "a header of text": ("actor_critic", header(lambda tree: tree.update({ONE: "F32"})), r"its header: .* holds 'F32', and must hold a mapping"),
    "a shape of text": ("actor_critic", header(lambda tree: tree[ONE].update(shape=["8"])), "its header: .*shape.0 is '8', and must be a whole number"),
    "a negative side": ("actor_critic", header(lambda tree: tree[ONE].update(shape=[-8])), "shape.0 is -8, and must be 0 or more"),
    "offsets of NaN": ("actor_critic", header(lambda tree: tree[ONE].update(data_offsets=[float("nan"), 4])), "data_offsets.0 is nan"),
    "lerobot: features of text": ("lerobot pi0", config(input_features="all"), "input_features is 'all', and must be a mapping"),
    "lerobot: a shape of text": (
        "lerobot pi0",
        edit("config.json", lambda content: content["input_features"]["observation.state"].update(shape="8")),
        "input_features.observation.state.shape is '8', and must be a list",
    ),
    "lerobot: a horizon without end": ("lerobot pi0", config(chunk_size=10**12), "chunk_size is 1000000000000, and must be a whole number from 1"),
    "lerobot: steps that are no list": (
        "lerobot pi0",
        edit("policy_preprocessor.json", lambda content: content.update(steps={})),
        "policy_preprocessor.json: steps is {}, and must be a list",
    ),
    "lerobot: a file elsewhere": (
        "lerobot pi0",
        edit("policy_preprocessor.json", lambda content: [step.update(state_file="/dev/zero") for step in content["steps"]]),
        "state_file is '/dev/zero'.*must be a path within the folder",
    ),
    "lerobot: a norm_map of numbers": (
        "lerobot pi0",
        edit("policy_postprocessor.json", lambda content: [step.setdefault("config", {}).update(norm_map={"ACTION": 1}) for step in content["steps"]]),
        "norm_map.ACTION is 1, and must be text",
    ),
    "smolvla: no language model": ("lerobot smolvla", edit("config.json", lambda content: content.pop("vlm_model_name")), "vlm_model_name is missing"),
    "smolvla: a model in a folder of nobody": ("lerobot smolvla", config(vlm_model_name="~nobody-here/x"), "'~nobody-here/x' is no path"),
    "openpi: statistics of text": (
        "openpi pi0",
        edit(STATISTICS, lambda content: content["norm_stats"].update(state="none")),
        "norm_stats.state is 'none', and must be a mapping",
    ),
    "openpi: a mean of text": (
        "openpi pi0",
        edit(STATISTICS, lambda content: content["norm_stats"]["state"]["mean"].__setitem__(2, "0")),
        "norm_stats.state.mean.2 is '0', and must be a number",
    ),
    "openpi: a mean of 400 digits": (
        "openpi pi0",
        edit(STATISTICS, lambda content: content["norm_stats"]["state"]["mean"].__setitem__(2, 10**400)),
        "norm_stats.state.mean",
    ),
    "openpi: a mean that float32 has not": (
        "openpi pi0",
        edit(STATISTICS, lambda content: content["norm_stats"]["state"]["mean"].__setitem__(2, 1e300)),
        r"norm_stats.state.mean\[2\] is 1e\+300, and must be a finite number",
    ),
    "openpi: a dimension less": (
        "openpi pi0",
        tensors(lambda held: held.update({"action_in_proj.weight": held["action_in_proj.weight"].reshape(-1).clone()})),
        "action_in_proj.weight has shape .*, and must have 2 dimensions",
    ),
    "openvla: text_config of a list": ("openvla", config(text_config=[]), r"text_config is \[\], and must be a mapping"),
    "openvla: layers of text": (
        "openvla",
        edit("config.json", lambda content: content["text_config"].update(num_hidden_layers="three")),
        "text_config.num_hidden_layers is 'three', and must be a whole number",
    ),
    "openvla: an index of a list": (
        "openvla",
        edit("model.safetensors.index.json", lambda content: content.update(weight_map=[])),
        r"weight_map is \[\], and must be a mapping",
    ),
    "openvla: a file of numbers": (
        "openvla",
        edit("model.safetensors.index.json", lambda content: content["weight_map"].update(x=7)),
        "weight_map.x is 7, and must be text",
    ),
    "openvla: a file out of the folder": (
        "openvla",
        edit("model.safetensors.index.json", lambda content: content["weight_map"].update(x="../x.safetensors")),
        "weight_map.x is '../x.safetensors'.*must be a path within the folder",
    ),
    "openvla: a mask of text": (
        "openvla",
        edit("dataset_statistics.json", lambda content: content["libero_goal"]["action"].update(mask="yes")),
        "action.mask is 'yes', and must be a list",
    ),
    "openvla: a head that is no pickle": ("openvla", lambda folder: torch.save(7, next(folder.glob("action_head*"))), "more than a state dict of tensors"),
    "groot: statistics of text": (
        "groot",
        edit(METADATA, lambda content: content["new_embodiment"].update(statistics="none")),
        "metadata.json: new_embodiment.statistics.state.arm.min is missing",
    ),
    "groot: an embodiment of text": ("groot", edit(METADATA, lambda content: content.update(new_embodiment="arm")), "metadata.json: new_embodiment.modalities"),
    "groot: a token of text": ("groot", edit("added_tokens.json", lambda content: content.update({"<IMG_CONTEXT>": "x"})), "<IMG_CONTEXT> is 'x'"),
    "kept: a mean that float32 has not": (
        "kept pi0",
        edit("config.json", lambda content: content["options"]["processing"]["actions"]["normalisation"]["mean"].__setitem__(1, 1e300)),
        "mean has 1e\\+300",
    ),
    "kept: a layout of nobody": (
        "kept pi0",
        edit("original/checkpoint.json", lambda content: content.update(layout="other")),
        "layout is 'other', and must be",
    ),
    "kept: files out of the folder": (
        "kept pi0",
        edit("original/checkpoint.json", lambda content: content["carried"].append("../../x")),
        "carried.* is '../../x'.*must be a path within the folder",
    ),
    "kept: a file less": ("kept pi0", lambda folder: (folder / "original/files/config.json").unlink(), "config.json is missing"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_folder_is_refused_in_words(what: str, good: Callable[[str], Path], tmp_path: Path) -> None:
    kind, change, said = ODD[what]
    folder = Path(shutil.copytree(good(kind), tmp_path / "policy"))
    change(folder)
    with pytest.raises(ExplainedError, match=said) as caught:
        load(folder, kind)
    assert str(tmp_path) in str(caught.value) or "policy.name" in str(caught.value) or "policy.options" in str(caught.value) or "no path" in str(caught.value)
