"""What was recorded of the decisions of a micro-batch: gathered from the data plane and brought to the learner's device.

A GPU learns from one micro-batch while the next one is gathered into page-locked memory and copied there, on a stream of its own.

Invariants:
- neither a gather nor a copy waits for the device, and the device never waits for a copy that it does not need yet;
- the memory of a copy is not used again before both ends are done with it. torch's allocators see to that: the one of page-locked memory remembers each copy,
  and `record_stream` tells that of the device who reads the tensors;
- on a CPU nothing is copied: the tensors are the gathered arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Observations
from rlvla3.policies.conversion import observations_of, trace_of


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded arrays of n decisions, with the names of the data plane.

    tickets, rows: where they are recorded, [n] each. arrays: {name: [n, ...]} on the host. tensors: the same on the learner's device.
    observations: on the device, with their words. None where they were not asked for.
    """

    tickets: NDArray[np.int64]
    rows: NDArray[np.int64]
    arrays: Mapping[str, NDArray[Any]]
    tensors: Mapping[str, Tensor]
    observations: Observations | None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def trace(self) -> dict[str, Tensor]:
        """The sampling trace, under the policy's own names."""
        return trace_of(self.tensors)


class Loader:
    """Loads what was recorded onto `device`.

        recorded = loader.load(tickets, rows, names)
        ...                                           # the device computes
        loader.prepare(next_tickets, next_rows, names)

    `load` of what was prepared finds it on its way. On a CPU, `prepare` does nothing. tokenise: `Policy.tokenise`.
    """

    def __init__(self, rollouts: Rollouts, device: torch.device, tokenise: Callable[[Observations], Observations]) -> None:
        self._rollouts, self._device, self._tokenise = rollouts, device, tokenise
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: _Coming | None = None

    def prepare(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], names: Sequence[str]) -> None:
        """Begin to load what `load` will be asked for. It replaces what was prepared before."""
        if self._copies is not None:
            self._coming = None  # before the next one needs memory
            self._coming = self._begin(self._copies, tickets, rows, names)

    def load(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], names: Sequence[str]) -> Recorded:
        """What was recorded at (ticket, row) pairs. The device's present stream can use it."""
        if self._copies is None:
            arrays = self._rollouts.gather(tickets, rows, names)
            return self._gathered(tickets, rows, arrays, {name: torch.from_numpy(array) for name, array in arrays.items()})
        coming = self._coming
        if coming is None or not coming.holds(tickets, rows, names):
            coming = self._begin(self._copies, tickets, rows, names)
        else:
            self._coming = None
        return coming.used_by(torch.cuda.current_stream(self._device))

    def forget(self) -> None:
        """Forget what was prepared."""
        self._coming = None

    def _begin(self, copies: torch.cuda.Stream, tickets: NDArray[np.int64], rows: NDArray[np.int64], names: Sequence[str]) -> _Coming:
        fields = self._rollouts.spec.arrays()
        pinned = {name: _page_locked((len(rows), *fields[name].shape[2:]), fields[name].dtype) for name in names}
        arrays = self._rollouts.gather(tickets, rows, names, out={name: tensor.numpy() for name, tensor in pinned.items()})
        gathered = self._gathered(tickets, rows, arrays, pinned)
        with torch.cuda.stream(copies):
            tensors = {name: tensor.to(self._device, non_blocking=True) for name, tensor in pinned.items()}
            observations = gathered.observations
            if observations is not None:
                words = {name: tensor.pin_memory().to(self._device, non_blocking=True) for name, tensor in observations.words.items()}
                observations = replace(observations_of(tensors, observations.instructions), words=words)
            return _Coming(replace(gathered, tensors=tensors, observations=observations), copies.record_event())

    def _gathered(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], arrays: Mapping[str, NDArray[Any]], tensors: Mapping[str, Tensor]) -> Recorded:
        """What was gathered, on the host. tensors: those of the arrays."""
        shown = arrays.keys() >= set(self._rollouts.observation_names)
        observations = self._tokenise(observations_of(tensors, self._rollouts.instructions(tickets, rows))) if shown else None
        return Recorded(tickets, rows, arrays, tensors, observations)


@dataclass(frozen=True, slots=True)
class _Coming:
    """What is being copied. copied: the event that it is there."""

    recorded: Recorded
    copied: torch.cuda.Event

    def holds(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], names: Sequence[str]) -> bool:
        recorded = self.recorded
        return list(recorded.tensors) == list(names) and np.array_equal(recorded.tickets, tickets) and np.array_equal(recorded.rows, rows)

    def used_by(self, stream: torch.cuda.Stream) -> Recorded:
        """What was copied, for work that `stream` is given from now on."""
        stream.wait_event(self.copied)
        words = self.recorded.observations.words if self.recorded.observations else {}
        for tensor in (*self.recorded.tensors.values(), *words.values()):
            tensor.record_stream(stream)
        return self.recorded


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on `device`. The host does not wait for the copy. On a CPU the tensor is the array."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _page_locked(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """A tensor for an array with this dtype of numpy, in memory that a GPU reads without the host."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
