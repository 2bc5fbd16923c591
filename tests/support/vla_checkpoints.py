"""Tiny checkpoints of pretrained policies, in the layouts in which people have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.pi.smolvla import SmolVLA
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from tests.support.repository import ROOT

REFERENCES = ROOT / "tests" / "references"
TOKENIZERS = {"pi0": "gemma", "pi05": "gemma", "pi0_relative": "gemma", "smolvla": "smollm"}
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
SMOLVLA_HEAD = "model.vlm_with_expert.vlm.lm_head.weight"


@dataclass(frozen=True)
class Seen:
    """A batch of observations, as the processing takes them."""

    images: Mapping[str, Tensor]
    state: Tensor
    instructions: list[str]


def tokenizer_folder(family: str) -> str:
    """A small tokenizer of the same kind as the family's."""
    return str(REFERENCES / "tokenizers" / TOKENIZERS[family])


def network_of(family: str, seed: int = 0) -> torch.nn.Module:
    """The tiny network of a family, with random weights."""
    model: Pi | SmolVLA = SmolVLA(SmolVLAModel.tiny()) if family == "smolvla" else Pi(PiModel.tiny("pi05" if family == "pi05" else "pi0"))
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def lerobot_weights(family: str) -> dict[str, Tensor]:
    """The tensors that lerobot saves for the tiny network."""
    state = network_of(family).state_dict()
    if family == "smolvla":
        weights = {f"model.{name}": tensor for name, tensor in state.items()}
        return {**weights, SMOLVLA_HEAD: weights["model.vlm_with_expert.vlm.model.text_model.embed_tokens.weight"].clone()}
    heads = {HEAD: state[EMBEDDING].clone(), EXPERT_HEAD: torch.randn(1024, 64, generator=torch.Generator().manual_seed(1))}
    return {f"model.{name}": tensor for name, tensor in {**state, **heads}.items()}


def lerobot_folder(folder: Path, family: str) -> Path:
    """A checkpoint of lerobot: the JSON and the statistics of the references, and tiny weights."""
    shutil.copytree(REFERENCES / "lerobot" / family, folder)
    save_file(lerobot_weights(family), folder / "model.safetensors", {"format": "pt"})
    return folder


def openpi_statistics(rng: np.random.Generator, state: int = 8, actions: int = 7) -> dict[str, Any]:
    """The content of a norm_stats.json."""
    found = {}
    for name, size in (("state", state), ("actions", actions)):
        mean, std = rng.normal(size=size), rng.uniform(0.2, 2, size)
        found[name] = {"mean": mean.tolist(), "std": std.tolist(), "q01": (mean - 1.5 * std).tolist(), "q99": (mean + 1.6 * std).tolist()}
    return {"norm_stats": found}


def openpi_folder(folder: Path, family: str = "pi0", asset: str = "assets/physical-intelligence/libero") -> Path:
    """A checkpoint of openpi's PyTorch code: the language head stands for the embedding that it is tied to."""
    weights = {name.removeprefix("model."): tensor for name, tensor in lerobot_weights(family).items()}
    weights.pop(EMBEDDING)
    (folder / asset).mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {"action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m", "precision": "float32"}
    write(folder / "config.json", config)
    write(folder / asset / "norm_stats.json", openpi_statistics(np.random.default_rng(3)))
    return folder


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content))


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    write(path, content)
