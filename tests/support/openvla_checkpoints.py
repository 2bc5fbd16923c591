"""Checkpoints of OpenVLA-OFT at tiny size, as the authors' code saves them: weights in two files with an index, and the heads in torch files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.support.openvla_references import weights
from tests.support.repository import ROOT

REFERENCES = ROOT / "tests/references/openvla_oft"
PARTS = ("action_head", "proprio_projector")
STEP = 150000


def observation_reference() -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """What the authors' code makes of raw observations, and the shapes of its weights."""
    with safe_open(REFERENCES / "observation.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["shapes"])  # noqa: SIM118


def all_weights(head: str = "l1") -> dict[str, Tensor]:
    """Every tensor of the checkpoint."""
    _, shapes = observation_reference()
    made = weights({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    return made if head == "l1" else {name: tensor for name, tensor in made.items() if not name.startswith(PARTS)}


def write_folder(folder: Path, head: str = "l1", prefix: str = "module.", rounded: str | None = "projector.") -> Path:
    """A checkpoint. prefix: what data-parallel training puts in front of the names of the heads' tensors. rounded: what is kept in bfloat16."""
    shutil.copytree(REFERENCES / "folder", folder)
    made = all_weights(head)
    for part in PARTS:
        own = {f"{prefix}{name.removeprefix(f'{part}.')}": made.pop(name) for name in list(made) if name.startswith(f"{part}.")}
        if own:
            torch.save(own, folder / f"{part}--{STEP}_checkpoint.pt")
    names = sorted(made)
    shards = {"model-00001-of-00002.safetensors": names[: len(names) // 2], "model-00002-of-00002.safetensors": names[len(names) // 2 :]}
    for file, held in shards.items():
        save_file({name: made[name].bfloat16().contiguous() if rounded and name.startswith(rounded) else made[name] for name in held}, folder / file)
    places = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def stored_tensors(folder: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """All tensors of a folder: file -> name -> tensor."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found[path.name] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found | {path.name: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))}
