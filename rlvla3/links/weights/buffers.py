"""Where the bytes of versions lie, for the processes of one host: in host memory, or on the trainer's GPU.

On the GPU (CUDA IPC), publishing and loading are copies within a device or between two devices. Nothing crosses to the host and back. This takes two more
copies of the published weights on the trainer's device. It serves only this host: other hosts fetch from host memory.

Invariant: the writer's process lives as long as somebody reads. Host memory lives as long as a process has mapped it, but the memory of a device is freed when
the process that took it ends, and may then be another's. A run ends its trainer and its generators together, and fails as soon as its trainer is lost.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Protocol

import torch
import torch.multiprocessing  # registers how tensors are handed to other processes
from torch import Tensor

from rlvla3.links.weights.versions import WeightMemory

LONGEST_HANDLES = 1 << 16


class Buffers(Protocol):
    """One buffer for each version that is held, uint8 [size] each. Every process sees the same bytes."""

    def to_write(self) -> Sequence[Tensor]: ...

    def to_read(self) -> Sequence[Tensor]:
        """To be called only when a version is there."""


class HostBuffers:
    """Buffers in host memory."""

    def __init__(self, memory: WeightMemory, size: int, layout: int) -> None:
        self._buffers = [torch.from_numpy(buffer) for buffer in memory.lay_out(size, layout)]

    def to_write(self) -> Sequence[Tensor]:
        return self._buffers

    def to_read(self) -> Sequence[Tensor]:
        return self._buffers


class DeviceBuffers:
    """Buffers on the writer's device. The writer makes them and puts their handles into host memory; readers map them from there.

    A process cannot map its own memory. So a reader in another thread of the writer's process gets the writer's tensors.
    """

    def __init__(self, memory: WeightMemory, size: int, layout: int, device: torch.device) -> None:
        memory.lay_out(size, layout)
        self._memory, self._handles, self._size, self._device = memory, memory.handles, size, device
        self._buffers: Sequence[Tensor] | None = None

    def to_write(self) -> Sequence[Tensor]:
        if self._buffers is None:
            self._buffers = [torch.empty(self._size, dtype=torch.uint8, device=self._device) for _ in self._memory.buffers]
            handles = bytes(ForkingPickler.dumps(self._buffers))
            if len(handles) > LONGEST_HANDLES:
                raise ValueError(f"the handles of {len(self._buffers)} buffers take {len(handles)} bytes, and there is room for {LONGEST_HANDLES}")
            self._handles.map(LONGEST_HANDLES)[: len(handles)] = handles
            self._memory.made_here = self._buffers
        return self._buffers

    def to_read(self) -> Sequence[Tensor]:
        if self._buffers is None and self._memory.made_here is not None:
            self._buffers = self._memory.made_here
        elif self._buffers is None:
            mapped: Sequence[Tensor] = pickle.loads(
                self._handles.map(LONGEST_HANDLES)
            )  # written by the trainer of this run, in memory that only its workers have
            self._buffers = mapped
        return self._buffers
