"""Devices that rollout and training have in turn (engine.offload): whoever does not work leaves, and takes what it has to the host's memory.

Tensors leave by their storages: the bytes are copied to the host, and the storage shrinks to nothing until it takes them back. So whatever refers to the
tensors goes on to do so (an optimizer, shards of FSDP2, the weight plane, views, tied weights); only nobody may look into them meanwhile. That is how FSDP2
lets gathered weights go, too.

Invariants:
- whoever enters has, bit for bit, what it left with. It may lie elsewhere on the device;
- a storage crosses once, however many tensors look into it;
- room on the host is taken once, page-locked where the device is a GPU, and used again for as long as sizes stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rlvla3.training.learner import Learner


class Residence:
    """Where the tensors of a worker are while others work: on its device, as ever."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def away(self) -> bool:
        """Whether the tensors are off the device."""
        return False

    def settle(self, module: nn.Module) -> None:
        """Make `module`, which is on the CPU, one of the device."""
        module.to(self.device)

    def enter(self) -> None:
        """Be on the device. To be called before anything is computed there; when nobody else is in the way."""

    def leave(self) -> None:
        """Be off the device, where the recipe asks for that. To be called when nothing is under way there."""


class TakingTurns(Residence):
    """A residence that others have in turn.

        residence = TakingTurns(device, lambda: policy.parameters())
        residence.settle(policy)                # of the device, and away
        residence.enter()
        ...                                     # compute
        residence.leave()

    tensors: all that is on the device whenever it is left; asked then, as an optimizer's state comes later than the optimizer. moving: entered while tensors
    are on their way. On the CPU it does the same as on a GPU, but that what has no memory of its own stays: what is mapped from a file, or belongs to numpy.
    """

    def __init__(self, device: torch.device, tensors: Callable[[], Iterable[Tensor]], moving: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        super().__init__(device)
        self._tensors, self._moving = tensors, moving
        self._left: list[tuple[torch.UntypedStorage, Tensor]] = []
        self._room: defaultdict[int, list[Tensor]] = defaultdict(list)

    @property
    def away(self) -> bool:
        return bool(self._left)

    def settle(self, module: nn.Module) -> None:
        """One tensor at a time: whoever works on the device meanwhile has all of it but that."""
        with self._moving():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.to(self.device)
                self._let_go([tensor])

    def enter(self) -> None:
        if not self.away:
            return
        with self._moving():
            for storage, kept in self._left:
                storage.resize_(kept.nbytes)
                _bytes_of(storage).copy_(kept, non_blocking=True)
            self._wait()
        for _, kept in self._left:
            self._room[kept.nbytes].append(kept)
        self._left = []

    def leave(self) -> None:
        if self.away:
            return
        with self._moving():
            self._let_go(self._tensors())
            self._room.clear()  # of sizes that nothing has any more
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # activations, too

    def _let_go(self, tensors: Iterable[Tensor]) -> None:
        leaving = [(storage, self._kept(storage)) for storage in self._storages(tensors)]
        self._wait()
        for storage, _ in leaving:
            storage.resize_(0)
        self._left += leaving

    def _kept(self, storage: torch.UntypedStorage) -> Tensor:
        """The bytes of a storage, on their way to the host: uint8 [n]."""
        room = self._room[storage.nbytes()]
        kept = room.pop() if room else torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return kept.copy_(_bytes_of(storage), non_blocking=True)

    def _storages(self, tensors: Iterable[Tensor]) -> Iterable[torch.UntypedStorage]:
        """What the tensors lie in on this device: each once."""
        found = {}
        for tensor in tensors:
            storage = _own(tensor).untyped_storage()
            if storage.device.type == self.device.type and storage.nbytes() and storage.resizable():
                found[storage.data_ptr()] = storage
        return found.values()

    def _wait(self) -> None:
        """Until everything is where it was sent, and no stream works on it any more."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_residence(
    offload: bool, device: torch.device, tensors: Callable[[], Iterable[Tensor]], moving: Callable[[], AbstractContextManager[None]]
) -> Residence:
    """As the recipe asks (engine.offload)."""
    return TakingTurns(device, tensors, moving) if offload else Residence(device)


def held_by(learner: Learner) -> Iterator[Tensor]:
    """What a learner has on its device between two updates: the policy, or this rank's shards of it and rank 0's whole copy that travels; moments; the
    reference policy; the critic's memory. Gradients and activations there are none."""
    policy, parallel = learner.policy, learner.parallel
    yield from (*policy.parameters(), *policy.buffers())
    yield from learner.parameter_state().values()
    if learner.ranks.first:
        yield from parallel.published().values()
    for features, targets in learner.replay.state_dict()["past"]:
        yield from (*features.values(), targets)


def _own(tensor: Tensor) -> Tensor:
    """What a rank has of a tensor in shards (DTensor, a second to import); of any other, all."""
    tensor = tensor.detach()
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
