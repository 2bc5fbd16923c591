"""The weight plane of one host: versions of the weights in shared memory, apart from all other traffic.

The trainer writes version v into buffer v mod 2 while generators may still be reading version v - 1 from the other; then it names v the newest. A generator
takes the newest version between two batches and is never waited for.

Invariants:
- a buffer's stamp is -1 while it is being written and its version afterwards; a reader that finds another stamp after copying than before copies again, so
  no torn version is ever used;
- only what training changes travels (`Policy.published`); the rest was loaded from the checkpoint by everybody.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvla3.links.shared_memory import SharedArrays
from rlvla3.links.weight_memory import BUFFERS, WeightMemory
from rlvla3.types import Field, Version


class WeightPlane:
    """The weights of one policy on the plane; every process that holds a policy built alike finds the same arrays.

    plane = WeightPlane(memory, policy.published())
    plane.publish(version)                                        # the trainer
    if plane.newest > version: version = plane.load()             # a generator, between batches
    """

    def __init__(self, memory: WeightMemory, tensors: Mapping[str, Tensor]) -> None:
        self._header, self._tensors = memory.header, tensors
        layout = {name: Field(tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype) for name, tensor in tensors.items()}
        self._buffers = [{name: torch.from_numpy(array) for name, array in SharedArrays(layout, file).items()} for file in memory.buffers]

    @property
    def newest(self) -> Version:
        """The newest version published, -1 before the first."""
        return int(self._header["newest"][0])

    def publish(self, version: Version) -> None:
        """Make the tensors, as they are now, the newest version."""
        which = version % BUFFERS
        self._header["stamp"][which] = -1
        for name, tensor in self._tensors.items():
            self._buffers[which][name].copy_(tensor)
        self._header["stamp"][which] = version
        self._header["newest"][0] = version

    def load(self) -> Version:
        """Copy the newest version into the tensors, in place. Returns which it was."""
        while True:
            version = self.newest
            which = version % BUFFERS
            if self._header["stamp"][which] == version:
                for name, tensor in self._tensors.items():
                    tensor.copy_(self._buffers[which][name])
                if self._header["stamp"][which] == version:
                    return version
