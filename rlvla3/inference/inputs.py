"""Observations on their way to the device.

    data plane -> Waiting: page-locked rows in order of arrival -> the same rows on the device -> Fixed: the batch in its order, at fixed addresses

Invariants:
- rows that were gathered stay as they are until their batch has ended. So there are two `Waiting`: one is computed with while the other is filled;
- a row of padding repeats the first row of its batch. So it is always a valid one, and the same batch is always the same computation;
- the addresses of `Fixed` never change. CUDA graphs read there.

On a CPU both are plain memory, and nothing is copied twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.types import Layout


class Waiting:
    """Rows of observations that an inference will take, in order of arrival.

        waiting.rows(3)["state"][:] = ...       # three more rows
        waiting.add(3)

    capacity: rows at first. It grows where more are asked for. copying: the stream that rows are copied to the device on, beside what the device computes.
    """

    def __init__(self, layout: Layout, device: torch.device, capacity: int, copying: torch.cuda.Stream | None) -> None:
        self._layout, self._device, self._copying = layout, device, copying
        self.count = 0
        self._allocate(capacity)

    def rows(self, more: int) -> dict[str, NDArray[Any]]:
        """Where `more` further rows are to be written: {name: [more, ...]}."""
        if self.count + more > self._capacity:
            self._grow(self.count + more)
        return {name: host.numpy()[self.count : self.count + more] for name, host in self.host.items()}

    def add(self, more: int) -> None:
        """`more` rows were written. Their copy to the device begins."""
        written = slice(self.count, self.count + more)
        self.count += more
        if self._copying is not None:
            with torch.cuda.stream(self._copying):
                for name, host in self.host.items():
                    self.device[name][written].copy_(host[written], non_blocking=True)

    def arrive(self) -> None:
        """The device computes what comes next only with rows that have arrived."""
        if self._copying is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._copying)

    def clear(self) -> None:
        """All rows have been taken."""
        self.count = 0

    def _grow(self, least: int) -> None:
        if self._copying is not None:
            self._copying.synchronize()  # the old rows are being read
        held = {name: host[: self.count] for name, host in self.host.items()}
        self._allocate(max(least, 2 * self._capacity))
        for name, rows in held.items():
            self.host[name][: self.count].copy_(rows)
        gathered, self.count = self.count, 0
        self.add(gathered)

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        pinned = self._copying is not None
        self.host = {
            name: torch.from_numpy(np.zeros((capacity, *field.shape), field.dtype)).pin_memory()
            if pinned
            else torch.from_numpy(np.zeros((capacity, *field.shape), field.dtype))
            for name, field in self._layout.items()
        }
        self.device = {name: host.to(self._device) for name, host in self.host.items()} if pinned else self.host


class Fixed:
    """The tensors of a batch at fixed addresses on the device: {name: [largest, ...]}, of which a batch of a size has the first rows.

    observations: the names that are taken from the rows of a `Waiting`. All other tensors come from the host with each batch.
    """

    def __init__(self, examples: Mapping[str, Tensor], observations: Layout, device: torch.device, largest: int) -> None:
        """examples: host tensors [1 or more, ...] of everything that is not an observation."""
        self._pinned = device.type == "cuda"
        self._observations = tuple(observations)
        order = torch.zeros(1, dtype=torch.int64)
        self._sent = {name: self._example(tensor, largest) for name, tensor in {**examples, "order": order}.items()}
        shown = {name: torch.from_numpy(np.zeros((largest, *field.shape), field.dtype)) for name, field in observations.items()}
        self._tensors = {name: tensor.to(device, copy=True) for name, tensor in {**self._sent, **shown}.items()}

    def fill(self, size: int, waiting: Waiting, given: Mapping[str, Tensor]) -> None:
        """Bring a batch of `size` rows to the device. given: host tensors [at most size, ...] by name, and `order`, which rows of `waiting` they are.

        Raises ValueError where a tensor has another shape than the example had.
        """
        for name, values in given.items():
            host = self._sent[name]
            if values.shape[1:] != host.shape[1:]:
                raise ValueError(f"{name} has the shape {list(values.shape)}, and the batch before had {['at most rows', *host.shape[1:]]}")
            rows = len(values)
            host[:rows].copy_(values)
            host[rows:size].copy_(values[:1].expand(size - rows, *values.shape[1:]))
            self._tensors[name][:size].copy_(host[:size], non_blocking=True)
        waiting.arrive()
        order = self._tensors["order"][:size]
        for name in self._observations:
            torch.index_select(waiting.device[name], 0, order, out=self._tensors[name][:size])

    def rows(self, size: int) -> dict[str, Tensor]:
        """The tensors of a batch of `size` rows."""
        return {name: tensor[:size] for name, tensor in self._tensors.items()}

    def _example(self, tensor: Tensor, largest: int) -> Tensor:
        filled = tensor[:1].expand(largest, *tensor.shape[1:]).contiguous()
        return filled.pin_memory() if self._pinned else filled
