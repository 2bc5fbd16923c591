"""The memory of the weight plane, apart from the plane: the process that lays it out need not know the weights, nor import torch."""

from __future__ import annotations

import numpy as np

from rlvla3.links.shared_memory import NamelessFile, SharedArrays
from rlvla3.types import Field

BUFFERS = 2
"""Versions held at a time: one being read while the next is written."""


class WeightMemory:
    """Room for BUFFERS versions, sized by whoever first opens it with weights in hand. header: newest version, and the version each buffer holds (-1: none)."""

    def __init__(self) -> None:
        self.header = SharedArrays({"newest": Field((1,), np.int64), "stamp": Field((BUFFERS,), np.int64)})
        for stamp in self.header.values():
            stamp[:] = -1
        self.buffers = [NamelessFile() for _ in range(BUFFERS)]
