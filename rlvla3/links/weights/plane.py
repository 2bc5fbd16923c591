"""The weight plane of one host: versions of the weights in memory that its processes share, apart from all other traffic.

The trainer writes a version into one buffer, while generators may still read the version before it from the other one. Then it marks it as the newest. A
generator loads the newest version between two batches. Nobody waits for a generator. Other hosts get versions from here (between_hosts/host.py).

Invariants: those of the memory (versions.py), and
- only weights that training changes travel (`Policy.published`). Every process has loaded the other ones from the checkpoint;
- a version is on the plane before it is announced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from rlvla3.choices import OnHost, WireType
from rlvla3.links.weights.buffers import Buffers, DeviceBuffers, HostBuffers
from rlvla3.links.weights.layout import WeightLayout
from rlvla3.links.weights.staging import Inbound, Outbound, device_of
from rlvla3.links.weights.versions import NONE, WeightMemory
from rlvla3.types import Version


class WeightPlane:
    """The weights of one policy on the plane. Every process whose policy is built in the same way finds the same bytes.

    plane = WeightPlane(memory, policy.published())
    plane.publish(version)                                        # the trainer
    if plane.newest > version: version = plane.load()             # a generator, between batches
    version = plane.load(pinned=True)                             # for an evaluation beside training

    dtype: the type in which weights travel; tensors keep their own. on_host: where versions lie. overlap: whether a publication goes on in a thread of its own
    after the tensors were copied aside. None: if tensors are on a GPU and versions are not; otherwise, publishing costs no more than copying aside. fail:
    called from that thread with the error of a publication. Raises WeightsError if the plane holds other weights.
    """

    def __init__(
        self,
        memory: WeightMemory,
        tensors: Mapping[str, Tensor],
        dtype: WireType = "as_trained",
        on_host: OnHost = "shared_memory",
        overlap: bool | None = None,
        fail: Callable[[BaseException], object] = lambda _: None,
    ) -> None:
        self._memory, self._tensors, self._fail = memory, tensors, fail
        self._layout, self._device = WeightLayout(tensors, dtype), device_of(tensors)
        in_memory = on_host == "shared_memory"
        self._buffers: Buffers = HostBuffers(memory, *self._form) if in_memory else DeviceBuffers(memory, *self._form, self._device)
        self._staged = in_memory and self._device.type == "cuda"
        self._overlap = self._staged if overlap is None else overlap
        self._viewed: Sequence[Mapping[str, Tensor]] = ()
        self._outbound: Outbound | None = None
        self._inbound: Inbound | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None
        self._loaded: Version = NONE
        self._aside: tuple[Version, Mapping[str, Tensor]] | None = None

    @property
    def newest(self) -> Version:
        """The newest version published, -1 before the first."""
        return self._memory.newest

    @property
    def pinned(self) -> Version:
        """The version that is pinned, -1 if none is."""
        return self._memory.pinned

    @property
    def size(self) -> int:
        """Bytes of a version."""
        return self._layout.size

    @property
    def going_on(self) -> bool:
        """Whether there is a publication that `finish` was not called for."""
        return self._under_way is not None

    def publish(self, version: Version, then: Callable[[], None] | None = None) -> None:
        """Make the tensors, as they are now, the newest version.

        Without `then`, the version is on the plane when this returns. With `then`, this returns as soon as the tensors may change again. `then` is called when
        the version is on the plane: now, or from the thread of the publication. An earlier publication that goes on is waited for.
        """
        self.finish()
        if not self._overlap:
            which = self._memory.begin()
            views = self._views(self._buffers.to_write())[which]
            for name, tensor in self._tensors.items():
                views[name].copy_(tensor)
            self._wait_for_device()
            self._complete(which, version, then)
            return
        if self._outbound is None or self._thread is None:
            self._outbound, self._thread = Outbound(self._layout, self._device), ThreadPoolExecutor(1, "weights")
        self._outbound.take(self._tensors)
        self._under_way = self._thread.submit(self._pour, self._outbound, version, then)
        self._under_way.add_done_callback(self._tell_of_error)
        if then is None:
            self.finish()

    def finish(self) -> None:
        """Wait for the publication that goes on, if there is one. Its error is raised here."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def load(self, pinned: bool = False) -> Version:
        """Let the tensors have the newest version, or the pinned one, in place. Returns its number. Raises WeightsError where there is none.

        While a version is pinned, the version that the tensors had before is kept aside on their device, if it may be wanted again. So pinned and newest
        version change places without a copy from the plane. It takes the memory of one more version there, until the next load after the pinned one was
        released.
        """
        wanted = self.pinned if pinned else self.newest
        if self.pinned < 0:
            self._aside = None
        elif self._aside is not None and self._aside[0] == wanted:
            self._change_places(self._aside[1])
            self._aside, self._loaded = (self._loaded, self._aside[1]), wanted
            return wanted
        elif self._loaded in (self.newest, self.pinned):
            self._put_aside()
        self._loaded = self._load(pinned)
        return self._loaded

    def _load(self, pinned: bool) -> Version:
        while True:
            which, version = self._memory.where_pinned() if pinned else self._memory.holder()
            buffers = self._buffers.to_read()
            if self._staged:
                self._inbound = self._inbound or Inbound(self._layout, self._device)
                self._inbound.deal(buffers[which], self._tensors)
            else:
                views = self._views(buffers)[which]
                for name, tensor in self._tensors.items():
                    tensor.copy_(views[name])
                self._wait_for_device()
            if self._memory.holds(which, version):
                return version

    def _put_aside(self) -> None:
        """Copy the tensors aside."""
        kept = self._aside[1] if self._aside is not None else {name: torch.empty_like(tensor) for name, tensor in self._tensors.items()}
        for name, tensor in self._tensors.items():
            kept[name].copy_(tensor)
        self._aside = self._loaded, kept

    def _change_places(self, aside: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            before = tensor.clone()
            tensor.copy_(aside[name])
            aside[name].copy_(before)

    @property
    def _form(self) -> tuple[int, int]:
        return self._layout.size, self._layout.fingerprint

    def _views(self, buffers: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        """The tensors within each buffer."""
        if not self._viewed:
            self._viewed = [self._layout.views(buffer) for buffer in buffers]
        return self._viewed

    def _wait_for_device(self) -> None:
        """Wait until the copies are done: other processes do not see the order of this process's stream."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _pour(self, outbound: Outbound, version: Version, then: Callable[[], None] | None) -> None:
        which = self._memory.begin()
        outbound.pour(self._buffers.to_write()[which])
        self._complete(which, version, then)

    def _complete(self, which: int, version: Version, then: Callable[[], None] | None) -> None:
        self._memory.complete(which, version)
        if then is not None:
            then()

    def _tell_of_error(self, publication: Future[None]) -> None:
        if (error := publication.exception()) is not None:
            self._fail(error)
