"""Devices that rollout and training use in turn (engine.offload): a worker that does not compute moves its tensors to host memory.

A tensor leaves by its storage. The bytes are copied to the host, and the storage is resized to 0 until they return. So every reference to the tensor stays
valid (an optimizer, FSDP2's shards, the weight plane, views, tied weights), but its values must not be read meanwhile. FSDP2 frees gathered weights in the same
way.

Invariants:
- after a return, the tensors have the same bits as before. Their addresses on the device may differ;
- a storage is copied once, however many tensors share it;
- host buffers are allocated once and used again while sizes stay the same. They are page-locked where the device is a GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlvla3.training.data_parallel import own_part

if TYPE_CHECKING:
    from rlvla3.training.learner import Learner


class Residence:
    """Where a worker's tensors are while other workers use the device. In this base class they always stay on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def away(self) -> bool:
        """Whether the tensors are on the host."""
        return False

    def place(self, module: nn.Module) -> None:
        """Move `module` from the CPU to the device."""
        module.to(self.device)

    def enter(self) -> None:
        """Bring the tensors to the device. Call it before each computation there, when no other worker has its tensors on the device."""

    def leave(self) -> None:
        """Move the tensors to the host, where the recipe asks for that. Call it when no computation is running."""


class OffloadedResidence(Residence):
    """The tensors of a worker that shares its device in turn.

        residence = OffloadedResidence(device, lambda: policy.parameters())
        residence.place(policy)                 # on the device in name; its bytes are on the host
        residence.enter()
        ...                                     # compute
        residence.leave()

    tensors: returns all of the worker's tensors on the device. It is called at each `leave`, because an optimizer creates its state only at its first step.
    moving: a context that is entered while tensors move.

    On the CPU the behaviour is the same, except that storages without memory of their own stay: those mapped from a file, and those of numpy arrays.
    """

    def __init__(self, device: torch.device, tensors: Callable[[], Iterable[Tensor]], moving: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        super().__init__(device)
        self._tensors, self._moving = tensors, moving
        self._offloaded: list[tuple[torch.UntypedStorage, Tensor]] = []
        self._buffers: defaultdict[int, list[Tensor]] = defaultdict(list)

    @property
    def away(self) -> bool:
        return bool(self._offloaded)

    def place(self, module: nn.Module) -> None:
        """Move one tensor at a time: the device needs room for only one of them while another worker uses it."""
        with self._moving():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.to(self.device)
                self._offload([tensor])

    def enter(self) -> None:
        if not self.away:
            return
        with self._moving():
            for storage, kept in self._offloaded:
                storage.resize_(kept.nbytes)
                _bytes_of(storage).copy_(kept, non_blocking=True)
            self._wait()
        for _, kept in self._offloaded:
            self._buffers[kept.nbytes].append(kept)
        self._offloaded = []

    def leave(self) -> None:
        if self.away:
            return
        with self._moving():
            self._offload(self._tensors())
            self._buffers.clear()  # the buffers left here have sizes that no storage has any more
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # frees the memory of activations too

    def _offload(self, tensors: Iterable[Tensor]) -> None:
        leaving = [(storage, self._copy_to_host(storage)) for storage in self._storages(tensors)]
        self._wait()
        for storage, _ in leaving:
            storage.resize_(0)
        self._offloaded += leaving

    def _copy_to_host(self, storage: torch.UntypedStorage) -> Tensor:
        """Start the copy of a storage's bytes to the host. Returns the host buffer: uint8 [n]."""
        buffers = self._buffers[storage.nbytes()]
        kept = buffers.pop() if buffers else torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return kept.copy_(_bytes_of(storage), non_blocking=True)

    def _storages(self, tensors: Iterable[Tensor]) -> Iterable[torch.UntypedStorage]:
        """The storages of the tensors on this device, each once."""
        found = {}
        for tensor in tensors:
            storage = own_part(tensor).untyped_storage()
            if storage.device.type == self.device.type and storage.nbytes() and storage.resizable():
                found[storage.data_ptr()] = storage
        return found.values()

    def _wait(self) -> None:
        """Wait until all copies are complete."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_residence(
    offload: bool, device: torch.device, tensors: Callable[[], Iterable[Tensor]], moving: Callable[[], AbstractContextManager[None]]
) -> Residence:
    """The residence that the recipe asks for (engine.offload)."""
    return OffloadedResidence(device, tensors, moving) if offload else Residence(device)


def learner_tensors(learner: Learner) -> Iterator[Tensor]:
    """All tensors of a learner on its device between two updates, when there are no gradients and no activations.

    They are the policy or this rank's shards, on rank 0 the whole copy that is published, the moments, the reference policy and the critic's kept features.
    """
    policy, parallel = learner.policy, learner.parallel
    yield from (*policy.parameters(), *policy.buffers())
    yield from learner.parameter_state().values()
    if learner.ranks.first:
        yield from parallel.published().values()
    for features, targets in learner.critic_features.state_dict()["past"]:
        yield from (*features.values(), targets)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
