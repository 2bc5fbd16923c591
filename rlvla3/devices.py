"""Which device a worker computes on."""

from __future__ import annotations

import torch

from rlvla3.errors import RecipeError


def choose_device(setting: str, key: str, number: int = 0) -> torch.device:
    """The device of a setting. "auto" is a GPU if there is one, and workers of one kind take the GPUs in turn.

    key: the name of the setting, for the error. number: the worker's number among its kind. Raises RecipeError where this machine has no such device.
    """
    if setting == "auto":
        return torch.device("cuda", number % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise RecipeError(f"{key}={setting[:80]} is no device: write auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(f"{key}={setting} is a device of torch on which no policy of rlvla3 was ever run: write auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (there := torch.cuda.device_count()):
        raise RecipeError(f"{key}={setting}, and this machine has {_devices_in_words(there)}")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _devices_in_words(there: int) -> str:
    """What there is, and what to write."""
    if not there:
        return "no CUDA device that torch can use: write auto or cpu"
    names = [f"cuda:{number}" for number in range(there)]
    return f"{there} CUDA device{'s' if there > 1 else ''}: write auto, cpu, {names[0]}" + (f" or another one up to {names[-1]}" if there > 1 else "")


def work_on(device: torch.device) -> None:
    """Make `device` the present one of this thread. Each thread begins with cuda:0, and torch goes back there after every block on a stream of another device.
    Then the process takes memory of cuda:0, too (a context, some 500 MB). On a CPU it does nothing."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
