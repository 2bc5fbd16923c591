"""The weight plane of one host: versions of the weights in shared memory, apart from all other traffic.

The trainer writes a version into one buffer while generators may still be reading the version before it from the other; then it names it the newest. A
generator takes the newest version between two batches and is never waited for. Other hosts get theirs from here (weight_hosts.py).

Invariants: those of the memory (weight_memory.py), and
- only what training changes travels (`Policy.published`); the rest was loaded from the checkpoint by everybody;
- a version is on the plane before anybody is told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from rlvla3.links.weight_layout import WeightLayout
from rlvla3.links.weight_memory import WeightMemory, WireType
from rlvla3.links.weight_staging import Inbound, Outbound, device_of
from rlvla3.types import Version


class WeightPlane:
    """The weights of one policy on the plane; every process that holds a policy built alike finds the same bytes.

    plane = WeightPlane(memory, policy.published())
    plane.publish(version)                                        # the trainer
    if plane.newest > version: version = plane.load()             # a generator, between batches

    dtype: in which type they travel; tensors keep their own. overlap: whether a publication goes on in a thread of its own once the tensors have been copied
    aside (None: where they are on a GPU. On the CPU copying them aside would cost as much as publishing them). Raises WeightsError where the plane holds
    other weights.
    """

    def __init__(self, memory: WeightMemory, tensors: Mapping[str, Tensor], dtype: WireType = "as_trained", overlap: bool | None = None) -> None:
        self._memory, self._tensors = memory, tensors
        self._layout = WeightLayout(tensors, dtype)
        self._buffers = [torch.from_numpy(buffer) for buffer in memory.lay_out(self._layout.size, self._layout.fingerprint)]
        self._views = [self._layout.views(buffer) for buffer in self._buffers]
        self._device = device_of(tensors)
        self._overlap = self._device.type == "cuda" if overlap is None else overlap
        self._outbound: Outbound | None = None
        self._inbound: Inbound | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    @property
    def newest(self) -> Version:
        """The newest version published, -1 before the first."""
        return self._memory.newest

    @property
    def size(self) -> int:
        """Bytes of a version."""
        return self._layout.size

    def publish(self, version: Version, then: Callable[[], None] | None = None) -> None:
        """Make the tensors, as they are now, the newest version.

        Without `then`, it is when this returns. With it, this returns as soon as the tensors may change again, and `then` is called once the version is on the
        plane: here and now, or from the thread in which the publication goes on. Waits for the publication before, where that goes on.
        """
        self.finish()
        if not self._overlap:
            which = self._memory.begin()
            for name, tensor in self._tensors.items():
                self._views[which][name].copy_(tensor)
            self._complete(which, version, then)
            return
        if self._outbound is None or self._thread is None:
            self._outbound, self._thread = Outbound(self._layout, self._device), ThreadPoolExecutor(1, "weights")
        self._outbound.take(self._tensors)
        self._under_way = self._thread.submit(self._pour, self._outbound, version, then)
        if then is None:
            self.finish()

    def finish(self) -> None:
        """Wait for the publication that goes on, if one does. Its error, if it had one, is raised here."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def load(self) -> Version:
        """Copy the newest version into the tensors, in place. Returns which it was. Raises WeightsError before the first."""
        while True:
            which, version = self._memory.holder()
            if self._device.type == "cpu":
                for name, tensor in self._tensors.items():
                    tensor.copy_(self._views[which][name])
            else:
                self._inbound = self._inbound or Inbound(self._layout, self._device)
                self._inbound.deal(self._buffers[which], self._tensors)
            if self._memory.holds(which, version):
                return version

    def _pour(self, outbound: Outbound, version: Version, then: Callable[[], None] | None) -> None:
        which = self._memory.begin()
        outbound.pour(self._buffers[which])
        self._complete(which, version, then)

    def _complete(self, which: int, version: Version, then: Callable[[], None] | None) -> None:
        self._memory.complete(which, version)
        if then is not None:
            then()
