"""Which way a policy acts: policy.inference. Nothing here imports torch, so that a recipe is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rlvla3.choices import Inference
from rlvla3.config import Recipe
from rlvla3.errors import RecipeError

Way = Literal["eager", "graphs", "compile"]

WORDS: dict[Way, str] = {
    "eager": "as the policy is written",
    "graphs": "from CUDA graphs, which are recorded at the start",
    "compile": "with code that torch.compile makes at the start",
}

GPU_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""What a GPU that torch can use looks like in /dev: NVIDIA's driver, that of Windows' Linux, AMD's."""


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether this machine has a GPU. It asks no driver: torch may not be able to use it. devices: the folder of the machine's devices."""
    return any(next(devices.glob(name), None) for name in GPU_FILES)


def choose_way(setting: Inference, device: str, moves: bool) -> Way:
    """The way that a setting means on a device. device: its type, cpu or cuda. moves: whether the weights leave the device in turn (engine.offload).

    auto: graphs on a GPU, where the weights stay at their addresses, else eager. Raises RecipeError for what is impossible.
    """
    if setting == "auto":
        return "graphs" if device == "cuda" and not moves else "eager"
    if setting == "graphs" and device != "cuda":
        raise RecipeError(f"policy.inference=graphs needs a CUDA GPU, and generators run on {device} here: set policy.inference=auto")
    if setting != "eager" and moves:
        raise RecipeError(
            f"policy.inference={setting} needs weights that stay at their addresses, and engine.offload=true moves them: set policy.inference=auto, or "
            f"engine.offload=false"
        )
    return setting


def expected_way(recipe: Recipe, devices: Path = Path("/dev")) -> tuple[Way, str] | None:
    """How the generators of a recipe will act, and the type of their device, as far as it is known before torch is asked.

    None if a cluster's hosts decide. devices: see has_gpu. Raises RecipeError for what is impossible.
    """
    setting = recipe.engine.device
    if setting == "auto" and recipe.runtime != "local":
        return None
    device = "cuda" if setting.startswith("cuda") or (setting == "auto" and has_gpu(devices)) else "cpu"
    return choose_way(recipe.policy.inference, device, recipe.engine.offload), device


def way_in_words(recipe: Recipe) -> str:
    """What is known before a run of how generators act. Raises RecipeError for what is impossible."""
    expected, setting = expected_way(recipe), recipe.policy.inference
    if expected is None:
        return f"policy.inference={setting}, and the hosts of the cluster decide"
    way, device = expected
    unless = ". A policy that cannot be recorded acts as it is written, and a notice of the run says so" if setting == "auto" and way == "graphs" else ""
    return f"on {'a GPU' if device == 'cuda' else 'the CPU'}, {WORDS[way]} (policy.inference={setting}){unless}"
