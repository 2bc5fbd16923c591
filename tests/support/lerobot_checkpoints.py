"""Whole tiny checkpoints of lerobot, weights included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import Checkpoint
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.pi.smolvla import SmolVLA
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.vla.network import Network
from tests.support.lerobot_references import folder_without_weights, sizes, weights
from tests.support.vla_checkpoints import EMBEDDING, EXPERT_HEAD, HEAD, SMOLVLA_HEAD


def empty_network(family: str, checkpoint: Checkpoint | None = None) -> Network[Any]:
    model = checkpoint.options["model"] if checkpoint else sizes(family)
    return SmolVLA(SmolVLAModel.model_validate(model)) if family == "smolvla" else Pi(PiModel.model_validate(model))


def saved_weights(family: str) -> dict[str, Tensor]:
    """What lerobot saves: all that the network has, and language heads."""
    known = weights(family, empty_network(family).state_dict())
    heads = {EXPERT_HEAD: torch.zeros(sizes(family)["vocabulary"], sizes(family)["expert"]["width"])}
    if family == "smolvla":
        heads = {SMOLVLA_HEAD.removeprefix("model."): torch.zeros(sizes(family)["vocabulary"], sizes(family)["language"]["width"])}
    else:
        heads[HEAD] = known[EMBEDDING].clone()
    return {f"model.{name}": tensor for name, tensor in (known | heads).items()}


def whole_folder(folder: Path, family: str) -> Path:
    """A checkpoint whose parts all fit one another: lerobot runs it, and so do we."""
    folder_without_weights(folder, family)
    save_file(saved_weights(family), folder / "model.safetensors", {"format": "pt"})
    return folder
