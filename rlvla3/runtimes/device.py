"""Which device a worker computes on."""

from __future__ import annotations

import torch

from rlvla3.config import RecipeError


def choose_device(setting: str, key: str, number: int = 0) -> torch.device:
    """The device of a setting: "auto" is a GPU where there is one, and workers of a kind go round them. key: the setting's name, for the error. number: the
    worker's. Raises RecipeError."""
    if setting == "auto":
        return torch.device("cuda", number % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise RecipeError(f"{key}={setting} is no device: write auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(f"{key}={setting}, and this machine has {torch.cuda.device_count()} CUDA devices: write auto or cpu")
    return device
