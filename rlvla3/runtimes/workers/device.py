"""Which device a worker computes on, and how much of that device's memory it may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rlvla3.choices import OnHost
from rlvla3.errors import RecipeError


def choose_device(setting: str, key: str, number: int = 0) -> torch.device:
    """The device of a setting. "auto" is a GPU if there is one, and workers of one kind take the GPUs in turn.

    key: the name of the setting, for the error. number: the worker's number among its kind. Raises RecipeError.
    """
    if setting == "auto":
        return torch.device("cuda", number % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise RecipeError(f"{key}={setting} is no device: write auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(f"{key}={setting}, and this machine has {torch.cuda.device_count()} CUDA devices: write auto or cpu")
    return device


def check_on_host(on_host: OnHost, device: torch.device, key: str) -> None:
    """Raises RecipeError if versions are to lie on a GPU and this worker's device is not one. key: the setting that names the device."""
    if on_host == "cuda_ipc" and device.type != "cuda":
        raise RecipeError(f"weights.on_host=cuda_ipc maps a GPU's memory, and the device of {key} is {device}: set weights.on_host=shared_memory")


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """How much of a device's memory a worker may use.

    setting: the setting that says so. share: of the device, for all `processes` of the worker's stage on it together (None: no limit). smaller: a setting that
    makes the worker need less.
    """

    worker: str
    device: torch.device
    setting: str
    share: float | None
    smaller: str
    processes: int = 1

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Limit this process to its share from now on. Raises RecipeError in place of torch.OutOfMemoryError."""
        if self.device.type == "cuda" and self.share is not None:
            torch.cuda.set_per_process_memory_fraction(self.share / self.processes, self.device)
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise RecipeError(self._complaint(str(error))) from error

    def _complaint(self, found: str) -> str:
        first = found.partition("\n")[0].partition(" See documentation")[0].rstrip(".")
        if self.share is None:
            limit = f"No {self.setting} limits it, so it had what others leave of the device"
            way_out = f"set less for the other stages under memory:, lower {self.smaller}, or use another device"
        else:
            part = f", of which each of {self.processes} processes has an equal part" if self.processes > 1 else ""
            limit = f"Its share of the device is {self.setting}={self.share:g}{part}"
            way_out = f"raise {self.setting}, or lower {self.smaller}"
        return f"the {self.worker} ran out of memory on {self.device}: {first}. {limit}: {way_out}"
