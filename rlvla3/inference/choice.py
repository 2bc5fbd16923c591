"""Which way a policy acts: policy.inference."""

from __future__ import annotations

from typing import Literal

import torch

from rlvla3.choices import Inference
from rlvla3.errors import RecipeError

Way = Literal["eager", "graphs", "compile"]


def choose_way(setting: Inference, device: torch.device, moves: bool) -> Way:
    """The way that a setting means on a device. moves: whether the weights leave the device in turn (engine.offload).

    auto: graphs on a GPU, where the weights stay at their addresses, else eager. Raises RecipeError for what is impossible.
    """
    if setting == "auto":
        return "graphs" if device.type == "cuda" and not moves else "eager"
    if setting == "graphs" and device.type != "cuda":
        raise RecipeError(f"policy.inference=graphs records CUDA graphs, and the device of engine.device is {device}: set policy.inference=auto")
    if setting != "eager" and moves:
        raise RecipeError(
            f"policy.inference={setting} needs weights that stay at their addresses, and engine.offload=true moves them: set policy.inference=auto, or "
            f"engine.offload=false"
        )
    return setting
